package host

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Flags of a mount that a pod gets.
type Flags uint64

// The flags.
const (
	NoSUID   Flags = unix.MOUNT_ATTR_NOSUID
	NoDev    Flags = unix.MOUNT_ATTR_NODEV
	NoExec   Flags = unix.MOUNT_ATTR_NOEXEC
	ReadOnly Flags = unix.MOUNT_ATTR_RDONLY
)

// Bind shows src at dst. Both are open, so no name is looked up again.
func Bind(src, dst *Dir, flags Flags) error {
	tree, err := unix.OpenTree(src.fd(), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("bind %s: open_tree: %w", src.path, err)
	}
	defer unix.Close(tree)
	if err := setAttr(tree, flags); err != nil {
		return fmt.Errorf("bind %s: %w", src.path, err)
	}
	return attach(tree, dst)
}

// Tree is one of the directories that Show shows.
type Tree struct {
	Name  string
	Dir   *Dir
	Flags Flags
}

// Show mounts a small tmpfs at dst that has a directory for each tree, and nothing else, and binds the trees there. Then nobody can
// change it. If it fails, nothing is mounted at dst.
func Show(dst *Dir, trees []Tree) (err error) {
	fs, err := tmpfs()
	if err != nil {
		return fmt.Errorf("mount %s: %w", dst.path, err)
	}
	defer unix.Close(fs)
	if err := attach(fs, dst); err != nil {
		return err
	}
	root := &Dir{os.NewFile(uintptr(dup(fs)), dst.path), dst.path}
	defer root.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Unmount(dst.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
		}
	}()
	for _, t := range trees {
		place, err := root.Make(t.Name, 0o755, 0, 0)
		if err != nil {
			return err
		}
		err = Bind(t.Dir, place, t.Flags)
		place.Close()
		if err != nil {
			return err
		}
	}
	return setAttr(fs, ReadOnly|NoSUID|NoDev|NoExec)
}

// Shelf mounts at dst a small tmpfs with these directories, in which nothing can be made: places for mounts. It is read-only before it is
// there, so that its copies in other mount namespaces are, too.
func Shelf(dst *Dir, names []string) error {
	fs, err := tmpfs()
	if err != nil {
		return fmt.Errorf("mount %s: %w", dst.path, err)
	}
	defer unix.Close(fs)
	root := &Dir{os.NewFile(uintptr(dup(fs)), dst.path), dst.path}
	defer root.Close()
	for _, name := range names {
		place, err := root.Make(name, 0o555, 0, 0)
		if err != nil {
			return err
		}
		place.Close()
	}
	if err := setAttr(fs, ReadOnly|NoSUID|NoDev|NoExec); err != nil {
		return err
	}
	return attach(fs, dst)
}

func dup(fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return n
}

func tmpfs() (int, error) {
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(ctx)
	for _, o := range [][2]string{{"source", "remora"}, {"size", "64k"}, {"mode", "0755"}} {
		if err := unix.FsconfigSetString(ctx, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("tmpfs %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("tmpfs: %w", err)
	}
	fs, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fs, nil
}

func setAttr(mount int, flags Flags) error {
	if flags == 0 {
		return nil
	}
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: uint64(flags)}); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

func attach(mount int, dst *Dir) error {
	err := unix.MoveMount(mount, "", dst.fd(), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount %s: move_mount: %w", dst.path, err)
	}
	return nil
}

// Detach takes away every mount at path and below, without looking at them: one that nobody serves would wait for ever. It is not an
// error if there is none.
func Detach(path string) error {
	points, err := MountsBelow(path)
	if err != nil {
		return err
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- { // upper ones first
		err := unix.Unmount(points[i].Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", points[i].Path, err))
		}
	}
	return errors.Join(errs...)
}

// Mount is a line of mountinfo.
type Mount struct {
	Path string
	Type string
}

// MountsBelow lists the mounts at path and below it, in the order in which they were made.
func MountsBelow(path string) ([]Mount, error) {
	table, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return nil, err
	}
	found := make([]Mount, 0, len(table))
	for _, m := range table {
		found = append(found, Mount{Path: m.Mountpoint, Type: m.FSType})
	}
	return found, nil
}
