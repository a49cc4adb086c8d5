// Package host is what the node plugin does to the node's file systems: directories below a trusted root, binds, small read-only trees,
// limits by project. It promises that no symbolic link, ".." or magic link in a path takes it anywhere else, that it never looks at a mount
// that it did not make, and that it changes nothing on the way to an error. It knows nothing of pods or volumes.
package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is an open directory.
type Dir struct {
	*os.File
	path string // for messages
}

// resolve is how every path below a Dir is walked (openat2(2)).
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Root opens a directory that the administrator named. Links in its own path are the administrator's choice.
func Root(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return newDir(fd, path), nil
}

func newDir(fd int, path string) *Dir { return &Dir{os.NewFile(uintptr(fd), path), path} }

func (d *Dir) fd() int { return int(d.Fd()) }

// Path is what the directory was opened as.
func (d *Dir) Path() string { return d.path }

// Open opens the directory rel below d. It fails with ELOOP at a link, with EXDEV at a way out.
func (d *Dir) Open(rel string) (*Dir, error) { return d.open(rel, unix.O_PATH) }

func (d *Dir) open(rel string, flags uint64) (*Dir, error) {
	path := filepath.Join(d.path, rel)
	how := unix.OpenHow{Flags: flags | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: resolve}
	fd, err := unix.Openat2(d.fd(), rel, &how)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return newDir(fd, path), nil
}

// Make makes the directory name in d and opens it. ErrExist if it is there.
func (d *Dir) Make(name string, mode uint32, uid, gid int) (*Dir, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(d.path, name)
	if err := unix.Mkdirat(d.fd(), name, mode); err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	made, err := d.open(name, unix.O_RDONLY)
	if err == nil {
		if err = errors.Join(unix.Fchown(made.fd(), uid, gid), unix.Fchmod(made.fd(), mode)); err == nil { // umask
			return made, nil
		}
		made.Close()
	}
	return nil, errors.Join(fmt.Errorf("make %s: %w", path, err), unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR))
}

// Ensure opens the directory name in d, and makes it if it is not there. One that is there is left as it is.
func (d *Dir) Ensure(name string, mode uint32, uid, gid int) (*Dir, error) {
	made, err := d.Make(name, mode, uid, gid)
	if errors.Is(err, os.ErrExist) {
		return d.Open(name)
	}
	return made, err
}

// Remove removes the empty directory name. One that is not there is removed already.
func (d *Dir) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

// Names lists a directory below d; none if there is no such directory.
func (d *Dir) Names(rel string) ([]string, error) {
	r, err := d.open(rel, unix.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Readdirnames(-1)
}

// RemoveAll removes what has this name in the directory, with everything below it; nothing is not an error. Links are removed, not
// followed, whatever somebody does there meanwhile.
func (d *Dir) RemoveAll(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	root, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(d.fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// Sync makes the names in d durable.
func (d *Dir) Sync() error {
	f, err := d.open(".", unix.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(f.File.Sync(), f.Close())
}

// checkName refuses what is not one name.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is not the name of a directory", name)
	}
	return nil
}
