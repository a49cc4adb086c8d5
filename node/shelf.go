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

// shelf is ROOT/.mounts/pods/<uid>: where the mounts of a pod of privileged mode are. <uid>.lock beside it is locked as long as its container
// lives, so that others know what is left behind.
type shelf struct {
	dir, uid string // ROOT/.mounts/pods
	path     string
	lock     *os.File
}

const lockSuffix = ".lock"

// The folder of shelves, which pods have as a hostPath (webhook.MountsFolder). Where a container mounts a folder of its volume that is not there,
// kubelet makes it, with the permissions of the hostPath: everybody's, as an emptyDir's are. So the folder around it is root's alone.
const (
	mountsFolder = ".mounts"
	podsFolder   = "pods"
)

// openFolder makes or opens a folder of ours, with these permissions: kubelet may have made it, with others.
func openFolder(in *host.Dir, name string, mode uint32) (*host.Dir, error) {
	d, err := in.Ensure(name, mode, 0, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", d.Fd()), mode); err != nil {
		d.Close()
		return nil, fmt.Errorf("permissions of %s: %w", d.Path(), err)
	}
	return d, nil
}

// openShelf waits, if another container of this pod is just ending.
func openShelf(ctx context.Context, root, uid string) (*shelf, error) {
	top, err := host.Root(root)
	if err != nil {
		return nil, fmt.Errorf("root of the disk directories (--root; is the node's folder mounted there?): %w", err)
	}
	defer top.Close()
	around, err := openFolder(top, mountsFolder, 0o700)
	if err != nil {
		return nil, err
	}
	defer around.Close()
	mounts, err := openFolder(around, podsFolder, 0o777)
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	s := &shelf{dir: mounts.Path(), uid: uid}
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
