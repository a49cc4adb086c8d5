package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// layout is DIR, resolved; its methods are the paths of docs/architecture.md. Pods are named as status shows them.
type layout string

func (l layout) lock() string      { return filepath.Join(string(l), "lock") }
func (l layout) control() string   { return filepath.Join(string(l), "control.sock") }
func (l layout) placement() string { return filepath.Join(string(l), "placement.json") }

func (l layout) mount(pod, volume string) string {
	return filepath.Join(string(l), "pods", pod, volume)
}
func (l layout) node(node string) string      { return filepath.Join(string(l), "nodes", node) }
func (l layout) failed(node string) string    { return filepath.Join(string(l), "failed", node) }
func (l layout) ca() string                   { return filepath.Join(string(l), "ca") }
func (l layout) identity(pod string) string   { return filepath.Join(l.run(pod), "identity") }
func (l layout) disks(node, ns string) string { return filepath.Join(string(l), "nodes", node, ns) }
func (l layout) volumes(ns string) string     { return filepath.Join(string(l), "volumes", ns) }
func (l layout) keys(ns string) string        { return filepath.Join(string(l), "keys", ns) }
func (l layout) run(pod string) string        { return filepath.Join(string(l), "run", pod) }
func (l layout) bin() string                  { return filepath.Join(string(l), "bin") }
func (l layout) holder(pod string) string     { return filepath.Join(l.run(pod), "holder.sock") }
func (l layout) sidecar(pod string) string    { return filepath.Join(l.run(pod), "sidecar.sock") }
func (l layout) log(pod string) string        { return filepath.Join(string(l), "logs", pod+".log") }
func (l layout) traces(pod string) string     { return filepath.Join(string(l), "traces", pod+".jsonl") }

// openLayout makes dir and takes its lock, which the returned file holds until it is closed.
func openLayout(dir string) (layout, *os.File, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, fmt.Errorf("--dir %s: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return "", nil, unusable(dir, err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", nil, unusable(dir, err)
	}
	l := layout(abs)
	lock, err := os.OpenFile(l.lock(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", nil, unusable(dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return "", nil, inUse(dir, l)
		}
		return "", nil, unusable(dir, err)
	}
	if err := errors.Join(lock.Truncate(0), writeAt(lock, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		lock.Close()
		return "", nil, unusable(dir, err)
	}
	return l, lock, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

func unusable(dir string, err error) error {
	return fmt.Errorf("--dir %s cannot be used: %w; it must be a directory that root can write, on a local disk with room for the volumes: "+
		"make it writable, or choose another with --dir", dir, err)
}

func inUse(dir string, l layout) error {
	who := "another process"
	if b, err := os.ReadFile(l.lock()); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		who = "process " + strings.TrimSpace(string(b))
	}
	return fmt.Errorf("--dir %s is in use by a running remora dev (%s); stop that one, or choose another directory with --dir", dir, who)
}

// mkdir makes a directory with exactly this mode, whatever the umask is; one that is there keeps its mode.
func mkdir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(path, mode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// prepare makes the directories of DIR itself. Only pods is for everybody: unprivileged programs use the mounts.
func (l layout) prepare() error {
	errs := []error{os.RemoveAll(l.bin())} // upgrades end with the supervisor
	for name, mode := range map[string]os.FileMode{
		"pods": 0o755, "nodes": 0o700, "volumes": 0o700, "run": 0o700, "logs": 0o755, "traces": 0o755, "bin": 0o755,
	} {
		errs = append(errs, mkdir(filepath.Join(string(l), name), mode))
	}
	return errors.Join(errs...)
}

// writeFile replaces path by data in one step.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
