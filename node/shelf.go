package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/node/host"
)

// shelf is ROOT/.mounts/<uid>: where the mounts of a pod of privileged mode are. ROOT/.mounts/<uid>.lock is locked as long as its container
// lives, so that others know what is left behind.
type shelf struct {
	dir, uid string // ROOT/.mounts
	path     string
	lock     *os.File
}

const lockSuffix = ".lock"

// openShelf waits, if another container of this pod is just ending.
func openShelf(ctx context.Context, root, uid string) (*shelf, error) {
	top, err := host.Root(root)
	if err != nil {
		return nil, fmt.Errorf("root of the disk directories (--root; is the node's folder mounted there?): %w", err)
	}
	defer top.Close()
	mounts, err := top.Ensure(MountsFolder, 0o711, 0, 0)
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	s := &shelf{dir: filepath.Join(root, MountsFolder), uid: uid}
	s.path = filepath.Join(s.dir, uid)
	for s.lock == nil {
		if s.lock, err = take(s.path + lockSuffix); err != nil {
			return nil, err
		}
		if s.lock != nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(firstTry):
		}
	}
	made, err := mounts.Ensure(uid, 0o755, 0, 0)
	if err != nil {
		return nil, err
	}
	return s, made.Close()
}

// take locks a file, which it makes; nil if somebody has it, or took it away meanwhile.
func take(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		return nil, err
	}
	here, err := f.Stat()
	now, gone := os.Lstat(path)
	if err == nil && gone == nil && os.SameFile(here, now) {
		return f, nil
	}
	f.Close()
	return nil, err
}

// make mounts the folders of the volumes, if they are not there from a container before.
func (s *shelf) make(volumes []string) error {
	found, err := host.MountsBelow(s.path)
	if err != nil {
		return err
	}
	for _, m := range found {
		if m.Path == s.path && m.Type == "tmpfs" {
			return nil
		}
	}
	dst, err := host.Root(s.path)
	if err != nil {
		return err
	}
	defer dst.Close()
	return host.Shelf(dst, volumes)
}

// remove takes the shelf away with everything on it.
func (s *shelf) remove() error {
	err := errors.Join(host.Detach(s.path), remove(s.path), remove(s.path+lockSuffix))
	s.lock.Close()
	return err
}

// sweep takes away what containers left behind that were killed, until ctx ends.
func (s *shelf) sweep(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.sweepOnce(log); err != nil {
			log.Error("cannot take away what ended sidecars left", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *shelf) sweepOnce(log *slog.Logger) error {
	locks, err := filepath.Glob(filepath.Join(s.dir, "*"+lockSuffix))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range locks {
		uid := strings.TrimSuffix(filepath.Base(path), lockSuffix)
		if uid == s.uid || !podUID.MatchString(uid) {
			continue
		}
		lock, err := take(path)
		if err != nil || lock == nil {
			errs = append(errs, err)
			continue
		}
		left := shelf{dir: s.dir, uid: uid, path: filepath.Join(s.dir, uid), lock: lock}
		if err := left.remove(); err != nil {
			errs = append(errs, err)
			continue
		}
		log.Warn("took away the mounts of a pod whose sidecar has ended", "uid", uid)
	}
	return errors.Join(errs...)
}
