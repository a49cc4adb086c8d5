package dev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/remora-storage/remora/sidecar/session/holder"
)

// Limits of stopping. A sidecar needs the second for draining and its last checkpoint.
const (
	unmountLimit = 5 * time.Second
	drainLimit   = 10 * time.Second
)

// unmount takes the mounts away while the sidecar serves: the first step of stopping.
func (i *instance) unmount() {
	i.mu.Lock()
	i.leaving = true
	i.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), unmountLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, m := range i.mounts {
		all.Go(func() { i.unmountOne(ctx, m) })
	}
	all.Wait()
	i.mu.Lock()
	i.left = true
	i.mu.Unlock()
}

func (i *instance) unmountOne(ctx context.Context, m *holder.Mount) {
	err := m.Unmount(ctx)
	switch {
	case err == nil:
		return
	case errors.Is(err, holder.ErrBusy):
		i.log.Warn("still in use; taken away from these processes", "mount", m.Target(), "pids", strings.Join(users(m.Target()), " "))
	default:
		i.log.Warn("the sidecar did not answer while unmounting; forced", "mount", m.Target(), "err", err)
	}
	if err := m.Detach(); err != nil {
		i.log.Error("cannot detach", "mount", m.Target(), "err", err)
	}
}

// end stops the sidecar and removes what is left of the mounts: the second and third step of stopping.
func (i *instance) end() error {
	i.setInstance(nil)
	i.stopLoop()
	i.looped.Wait()
	i.stopServer()
	i.served.Wait()
	close(i.ended)
	return i.closeMounts()
}

func (i *instance) closeMounts() error {
	var errs []error
	for _, m := range i.mounts {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// users lists the processes that have something open below a mount, as far as links of /proc tell. It reads links only: that
// asks nothing of the mount. Memory maps are not looked at, since a process that hangs would make us hang with it.
func users(target string) []string {
	var pids []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if uses(dir, target) {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}

func uses(process, target string) bool {
	links := []string{filepath.Join(process, "cwd"), filepath.Join(process, "root")}
	fds := filepath.Join(process, "fd")
	if d, err := os.Open(fds); err == nil {
		names, _ := d.Readdirnames(-1)
		d.Close()
		for _, name := range names {
			links = append(links, filepath.Join(fds, name))
		}
	}
	for _, link := range links {
		to, err := os.Readlink(link)
		if err == nil && (to == target || strings.HasPrefix(to, target+"/")) {
			return true
		}
	}
	return false
}
