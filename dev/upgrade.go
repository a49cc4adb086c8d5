package dev

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// upgraded is the answer to an upgrade.
type upgraded struct {
	Pause time.Duration `json:"pause"` // how long the pod was not served, nanoseconds
}

// An upgrade is a death of the sidecar that is asked for:
//
//  1. stage copies the binary to DIR/bin, so that every later start of the pod's sidecar runs these very bytes.
//  2. The manifests are read again: a larger size takes effect with the new sidecar, without a restart of the pod.
//  3. swap ends the sidecar with SIGTERM, so that it answers what it has begun and makes a checkpoint; the loop starts the next one
//     with the new binary, which takes the mounts over.
//  4. If that one does not serve within the hang budget, or dies three times, the old binary is put back the same way.

// startLimit is how long an upgrade waits for the new binary where there is no hang budget.
const startLimit = 30 * time.Second

// manyDeaths are enough to say that a binary does not work.
const manyDeaths = 3

// upgrade lets the binary at path serve the pod of that title.
func (s *supervisor) upgrade(ctx context.Context, title, path string) (pause time.Duration, err error) {
	k := s.keepers.find(title)
	p, err := s.pod(title)
	if err != nil && k == nil {
		return 0, err
	}
	staged, err := s.stage(ctx, cmp.Or(path, s.exe))
	if err != nil {
		return 0, fmt.Errorf("pod %s is as it was: %w", title, err)
	}
	if k != nil {
		return k.renew(ctx, staged)
	}
	return p.upgrade(ctx, staged)
}

// stage copies a binary to DIR/bin under a name made of its content, and sees whether it is one of ours.
func (s *supervisor) stage(ctx context.Context, path string) (staged string, err error) {
	in, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("--binary %s: %w; it must be a remora binary", path, err)
	}
	defer in.Close()
	if st, err := in.Stat(); err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return "", errors.Join(err, fmt.Errorf("--binary %s: is not a program: it must be a regular file with mode x", path))
	}
	if staged, err = s.copyProgram(in); err != nil {
		return "", fmt.Errorf("copy --binary %s to %s: %w", path, s.layout.bin(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	if out, err := s.spawner.Try(ctx, staged, "sidecar", "--help"); err != nil {
		return "", errors.Join(fmt.Errorf("--binary %s: is not a remora binary: `%s sidecar --help`: %w\n%s", path, path, err, out), os.Remove(staged))
	}
	return staged, nil
}

// tryLimit is how long a binary may take to print its help.
const tryLimit = 10 * time.Second

func (s *supervisor) copyProgram(in io.Reader) (path string, err error) {
	out, err := os.CreateTemp(s.layout.bin(), ".new-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	sum := sha256.New()
	_, err = io.Copy(out, io.TeeReader(in, sum))
	if err = errors.Join(err, out.Chmod(0o755), out.Close()); err != nil {
		return "", err
	}
	path = filepath.Join(s.layout.bin(), "remora-"+hex.EncodeToString(sum.Sum(nil))[:16])
	return path, os.Rename(out.Name(), path)
}

// upgrade changes the program that serves the pod, or leaves it as it is and says why.
func (p *pod) upgrade(ctx context.Context, program string) (pause time.Duration, err error) {
	p.life.Lock()
	defer p.life.Unlock()
	i := p.instance()
	if i == nil {
		return 0, fmt.Errorf("pod %s has not been started yet: pods of a StatefulSet start one after another", p.title)
	}
	if err := p.reloadRunning(ctx, i); err != nil {
		return 0, err
	}
	old := p.setProgram(program)
	pause, err = i.swap(program)
	switch {
	case err == nil:
		p.log.Info("upgraded", "program", program, "pause", pause.Round(time.Millisecond).String())
		return pause, nil
	case errors.Is(err, errStopping):
		return 0, err
	}
	p.setProgram(old)
	p.log.Error("the new binary does not serve; going back to the old one", "program", program, "err", err)
	back, backErr := i.swap(p.sidecarProgram())
	if backErr != nil {
		return 0, fmt.Errorf("pod %s: the new binary does not serve: %w; and the old one, which is back, does not either: %w", p.title, err, backErr)
	}
	return 0, fmt.Errorf("pod %s: the new binary does not serve: %w; the old one is back and serves, after a pause of %v in all", p.title, err,
		(pause + back).Round(time.Millisecond))
}

func (p *pod) setProgram(program string) (old string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, p.binary = p.binary, program
	return old
}

var errStopping = errors.New("remora dev is stopping")

// swap ends the present sidecar and waits until another one serves that runs the program. The pause is returned in any case. Once
// begun it goes through, whether or not somebody still waits for the answer.
func (i *instance) swap(program string) (pause time.Duration, err error) {
	limit := cmp.Or(i.s.cfg.HangBudget, startLimit)
	before := i.beginSwap()
	defer i.endSwap()
	over := time.After(limit)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; {
		now := i.snapshot()
		switch {
		case now.present == nil: // between two of them
		case now.present == before.present || now.program != program:
			i.terminate(now.present)
		case now.process:
			return time.Since(begin), nil
		}
		if now.died >= manyDeaths {
			return time.Since(begin), fmt.Errorf("it died %d times before it served: %s (log: %s)", now.died, now.lastSaid, i.sink.Path)
		}
		select {
		case <-i.s.stopping:
			return 0, errStopping
		case <-over:
			return time.Since(begin), fmt.Errorf("it did not serve within %v (log: %s)", limit, i.sink.Path)
		case <-tick.C:
		}
	}
}

// beginSwap forgets the deaths of other sidecars.
func (i *instance) beginSwap() history {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.swapping, i.died, i.lastSaid = true, 0, ""
	return i.history
}

func (i *instance) endSwap() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.swapping = false
}
