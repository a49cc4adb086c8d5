package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// side is one of the two directories that are compared.
type side struct {
	name     string
	dir      string
	sidecars func(context.Context) ([]int, error)    // nil: nobody serves it
	metrics  func(context.Context) (requests, error) // nil: nobody counts its requests
}

// bench is a run in progress.
type bench struct {
	cfg   Config
	dir   string       // both sides are below it, on one disk
	rig   *rig         // nil with -target
	floor *floorDaemon // nil without -floor
	sides []side       // plain, the volume, and with -floor the floor
	// requests per operation of the volume, in the order in which they were counted
	requests []RequestRow
	logf     func(string, ...any)
}

// Run measures and reports:
//
//  1. a folder on the disk, in it the plain directory and the volume of a `remora dev`;
//  2. the memory of the idle sidecar;
//  3. the preparation of each workload on both sides, not measured;
//  4. rounds: every workload on both sides, one after the other, the order of the sides alternating;
//  5. the memory after all of it, the report; and the end of everything that was started.
//
// A workload that fails is reported and left out; the others go on.
func Run(ctx context.Context, cfg Config) (err error) {
	b := &bench{cfg: cfg, logf: func(format string, args ...any) { _, _ = fmt.Fprintf(cfg.Log, format+"\n", args...) }}
	if err := b.makeDir(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.makeSides(ctx); err != nil {
		return err
	}
	report, err := b.describe(ctx)
	if err != nil {
		return err
	}
	if err := b.idle(ctx, report, "idle"); err != nil {
		return err
	}
	failed := b.rounds(ctx, report)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := b.idle(ctx, report, "after"); err != nil {
		return err
	}
	report.Requests = b.requests
	report.finish()
	if err := report.write(cfg); err != nil {
		return err
	}
	return failed
}

func (b *bench) makeDir() error {
	if b.cfg.Dir == "" {
		dir, err := os.MkdirTemp("/var/tmp", "remora-bench-")
		b.dir = dir
		return errors.Join(err, os.Chmod(dir, 0o755)) // user postgres passes through
	}
	dir, err := filepath.Abs(b.cfg.Dir)
	if err != nil {
		return err
	}
	b.dir = filepath.Join(dir, fmt.Sprintf("remora-bench-%d", os.Getpid()))
	return os.MkdirAll(b.dir, 0o755)
}

func (b *bench) makeSides(ctx context.Context) error {
	plain := side{name: "plain", dir: filepath.Join(b.dir, "plain")}
	if err := os.Mkdir(plain.dir, 0o755); err != nil {
		return err
	}
	if b.cfg.Target != "" {
		target, err := filepath.Abs(b.cfg.Target)
		if err != nil {
			return err
		}
		target, err = os.MkdirTemp(target, "remora-bench-")
		b.sides = []side{plain, {name: "target", dir: target}}
		return errors.Join(err, os.Chmod(target, 0o755))
	}
	if err := b.mountPeers(); err != nil {
		return err
	}
	r, err := startRig(ctx, b.cfg, filepath.Join(b.dir, "remora"), b.logf)
	if err != nil {
		return err
	}
	b.rig = r
	sealed, err := b.volume(ctx, "remora", "data")
	if err != nil {
		return err
	}
	b.sides = []side{plain, sealed}
	switch b.cfg.Against {
	case "unsealed":
		b.sides[1].name = "sealed"
		b.sides[0], err = b.volume(ctx, "unsealed", "open")
	case "one":
		b.sides[1].name = "three"
		b.sides[0], err = b.volume(ctx, "one", "one")
	case "bare":
		b.sides[1].name = "three"
		b.sides[0], err = b.bare()
	}
	if rival := b.cfg.rival(); rival != "" && err == nil {
		b.sides[1].name = "three"
		b.sides[0] = side{name: "rival"}
		if b.sides[0].dir, err = os.MkdirTemp(rival, "remora-bench-"); err == nil {
			err = os.Chmod(b.sides[0].dir, 0o755)
		}
	}
	if b.cfg.Floor && err == nil {
		if b.floor, err = b.startFloor(ctx); err == nil {
			b.sides = append(b.sides, side{name: "floor", dir: b.floor.dir, sidecars: b.floor.sidecars})
		}
	}
	return err
}

// volume is the side on a volume of the rig.
func (b *bench) volume(ctx context.Context, as, name string) (side, error) {
	mount, err := b.rig.mount(ctx, name)
	if err != nil {
		return side{}, err
	}
	b.logf("%s: volume at %s", as, mount)
	dir := filepath.Join(mount, "bench")
	return side{name: as, dir: dir, sidecars: b.rig.sidecars, metrics: b.rig.requests}, b.shell(ctx, "mkdir %s", dir)
}

// close leaves nothing, except with -keep, and except below a mount that could not be taken away.
func (b *bench) close() error {
	var err error
	if b.rig != nil {
		err = b.rig.close()
	}
	if b.floor != nil {
		err = errors.Join(err, b.floor.close())
	}
	mounts, mountErr := fuseMounts(b.dir)
	err = errors.Join(err, mountErr, b.unmountPeers())
	if len(mounts) > 0 || b.cfg.Keep {
		b.logf("left: %s", b.dir)
		return err
	}
	if b.cfg.rival() != "" && len(b.sides) > 1 {
		err = errors.Join(err, os.RemoveAll(b.sides[0].dir))
	}
	if b.cfg.Target != "" && len(b.sides) > 1 {
		err = errors.Join(err, os.RemoveAll(b.sides[1].dir))
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// idle records the memory of the sidecar after it had nothing to do for two seconds.
func (b *bench) idle(ctx context.Context, report *Report, when string) error {
	remora := b.sides[1]
	if remora.sidecars == nil {
		return nil
	}
	return b.resting(ctx, func() error {
		rss, anonymous, err := memory(ctx, remora)
		if err != nil {
			return fmt.Errorf("memory of the sidecar: %w", err)
		}
		report.Memory[when+"_mib"] = float64(rss) / mib
		report.Memory[when+"_anonymous_mib"] = float64(anonymous) / mib
		return nil
	})
}

// resting looks at a sidecar that had nothing to do for two seconds.
func (b *bench) resting(ctx context.Context, look func() error) error {
	select {
	case <-time.After(2 * time.Second):
		return look()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rounds prepares and measures every workload.
func (b *bench) rounds(ctx context.Context, report *Report) error {
	var failed []error
	broken := map[string]bool{}
	fail := func(w workload, s side, err error) {
		broken[w.name] = true
		err = fmt.Errorf("%s on %s: %w", w.name, s.name, err)
		failed = append(failed, err)
		report.Failures = append(report.Failures, err.Error())
		b.logf("FAILED %v", err)
	}
	for _, w := range chosen(b.cfg) {
		for _, s := range b.sides {
			if w.prepare == nil || broken[w.name] || ctx.Err() != nil {
				continue
			}
			start := time.Now()
			if err := w.prepare(ctx, b, s); err != nil {
				fail(w, s, err)
			}
			b.logf("prepared %-8s %-7s %5.1f s", w.name, s.name, time.Since(start).Seconds())
		}
	}
	for round := range b.cfg.Rounds {
		for _, w := range chosen(b.cfg) {
			for i := range b.sides {
				s := b.sides[(i+round)%len(b.sides)]
				if broken[w.name] || ctx.Err() != nil {
					continue
				}
				got, err := b.measure(ctx, w, s)
				if err != nil {
					fail(w, s, err)
					continue
				}
				report.add(w.name, s.name, got)
				b.logf("round %d/%d %-8s %-7s %s", round+1, b.cfg.Rounds, w.name, s.name, w.short(got))
			}
		}
	}
	return errors.Join(failed...)
}

// measure does it once, from a clean page cache. Short workloads run once in vain before: in a virtual machine, memory that the
// guest uses for the first time costs a fault of the host (512 MiB of page cache: 1.2 GB/s the first time, 5 GB/s after), and
// the side that comes first would pay for both. The pages that the first run frees are what the second one gets.
func (b *bench) measure(ctx context.Context, w workload, s side) (sample, error) {
	if w.warm {
		if _, err := w.measure(ctx, b, s); err != nil {
			return nil, err
		}
	}
	if err := b.clean(ctx); err != nil {
		return nil, err
	}
	var got sample
	err := b.counting(ctx, s, w.counts, func() (float64, error) {
		var err error
		got, err = w.measure(ctx, b, s)
		return got[operationsDone], err
	})
	return got, err
}

// short is a sample on one line.
func (w workload) short(got sample) string {
	text := ""
	for _, r := range w.rows {
		if value, ok := got[r.metric]; ok {
			text += fmt.Sprintf(" %s=%.4g", r.metric, value)
		}
	}
	return text
}
