package powercut

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fileSystem is one that volumes live on.
type fileSystem struct {
	name    string
	size    int64 // of the disk
	mkfs    []string
	options string // of mount(2); images of one disk are mounted beside each other
}

// broken: the file system did not survive a torn write of a 4 KiB block of its own: the mount says that a checksum is wrong, and
// its own repair program is needed. On ext4 that is the superblock ("Found ext4 filesystem with invalid superblock checksum"); on
// XFS a directory whose first sector, with the log's position, is newer than the rest: it is not replayed, and does not verify.
func broken(err error) bool { return errors.Is(err, unix.EBADMSG) }

var (
	ext4 = fileSystem{name: "ext4", size: 256 << 20, options: "commit=1",
		mkfs: []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=8", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"}}
	xfs = fileSystem{name: "xfs", size: 320 << 20, options: "nouuid",
		mkfs: []string{"mkfs.xfs", "-q", "-f", "-K"}}
)

// limit bounds every program.
const limit = time.Minute

// make puts an empty file system into a new file.
func (fs fileSystem) make(t testing.TB, file string) {
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, fs.size))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, fs.mkfs[0], append(fs.mkfs[1:], file)...).CombinedOutput()
	require.NoError(t, err, "%s: %s", fs.mkfs[0], out)
}

// mounted is a file system on a loop device.
type mounted struct{ dir string }

// mount mounts the disk in a file at a new directory. direct: the loop device passes each request on at once.
func (fs fileSystem) mount(file, dir string, direct bool) (*mounted, error) {
	loop, err := attach(file, direct)
	if err != nil {
		return nil, fmt.Errorf("loop device on %s: %w", file, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errors.Join(err, loop.Close())
	}
	if err := unix.Mount(loop.Name(), dir, fs.name, 0, fs.options); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s on %s: %w", fs.name, dir, err), loop.Close())
	}
	return &mounted{dir: dir}, loop.Close()
}

// unmount returns when the loop device is gone, too.
func (m *mounted) unmount() error {
	var err error
	for range 200 {
		if err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond) // a process that was killed is still giving its files back
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	return os.Remove(m.dir)
}

// attach makes a loop device of a file. The device goes with its last user.
func attach(file string, direct bool) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	if direct {
		config.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	for range 100 { // somebody else may be faster
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, checkDirect(loop, direct)
		}
		if err := errors.Join(loop.Close()); err != nil {
			return nil, err
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, errors.New("every free device was taken by somebody else")
}

func checkDirect(loop *os.File, direct bool) error {
	info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
	if err == nil && direct && info.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
		err = errors.New("the kernel refuses direct I/O")
	}
	if err != nil {
		return errors.Join(err, loop.Close())
	}
	return nil
}

// loopDevices lists the loop devices whose files are below dir.
func loopDevices(dir string) (left []string) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), dir) {
			left = append(left, filepath.Base(filepath.Dir(filepath.Dir(f))))
		}
	}
	return left
}

// copyFile copies a file and leaves out its holes.
func copyFile(t testing.TB, to, from string) {
	in, err := os.Open(from)
	require.NoError(t, err)
	defer func() { require.NoError(t, in.Close()) }()
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	defer func() { require.NoError(t, out.Close()) }()
	info, err := in.Stat()
	require.NoError(t, err)
	require.NoError(t, out.Truncate(info.Size()))
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		off, err = unix.Seek(int(in.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return
		}
		require.NoError(t, err)
		end, err := unix.Seek(int(in.Fd()), off, unix.SEEK_HOLE)
		require.NoError(t, err)
		for off < end {
			n, err := in.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
			require.NoError(t, err)
			_, err = out.WriteAt(buf[:n], off)
			require.NoError(t, err)
			off += int64(n)
		}
	}
}
