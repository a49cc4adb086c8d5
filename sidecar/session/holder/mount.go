package holder

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// State says how far a mount has come.
type State string

// The states of a mount.
const (
	Fresh        State = "Fresh"        // INIT was never answered
	Initialising State = "Initialising" // INIT and its reply are stored; whether the kernel got the reply is not known
	Ready        State = "Ready"        // the kernel has the reply; a successor adopts it
)

// ErrBusy is returned by Unmount while a program has something open on the mount.
var ErrBusy = errors.New("the mount is busy")

// ErrClosed is returned by methods of a Mount after Close.
var ErrClosed = errors.New("the mount is closed")

// MountOptions are the options of one mount.
type MountOptions struct {
	Volume     string // shown as the source of the mount
	AllowOther bool   // users other than root may use it; permissions are checked by the kernel in any case
	MaxRead    uint32 // longest READ in bytes; zero means 1 MiB
	// ReadAhead is how far the kernel reads ahead of sequential reads, and around a fault of a mapped page, in KiB; zero means 1024.
	ReadAhead uint32
}

// Mount is a FUSE mount and its connection. It is safe for concurrent use.
type Mount struct {
	target string
	opts   MountOptions

	mu         sync.Mutex
	fd         int      // of /dev/fuse; -1 after Close
	abort      *os.File // of fusectl; nil where fusectl cannot be mounted
	connection uint32
	hidden     int // entries of the directory below, when it was mounted over
	session    uint64
	state      State
	handed     bool // a sidecar was given the descriptor, so INIT may have been read
	lost       bool // the kernel has ended the connection
	orphan     bool // adopted: an earlier holder made the mount, and nobody has brought the descriptor yet
	init       []byte
	reply      []byte
}

// Open mounts a new FUSE connection at target, a directory that must exist. Nobody serves it yet: until a sidecar does,
// every look at target waits. It is nodev, but not nosuid: a pod's volumes are not, and what root puts there is root's choice.
func Open(target string, o MountOptions) (*Mount, error) {
	m, err := newMount(target, o)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m, m.mount()
}

// newMount is what is known of a mount before it is looked at.
func newMount(target string, o MountOptions) (*Mount, error) {
	// Only the parent is resolved: target may be a mount that nobody serves.
	abs, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", target, err)
	}
	if o.MaxRead == 0 {
		o.MaxRead = 1 << 20
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = 1024
	}
	return &Mount{target: filepath.Join(parent, filepath.Base(abs)), opts: o, fd: -1}, nil
}

// mount makes a new connection. m.mu is held.
func (m *Mount) mount() error {
	if _, mounted, err := topmost(m.target); err != nil || mounted {
		return errors.Join(err, fmt.Errorf("mount %s: something is mounted there already; fix: umount %[1]s", m.target))
	}
	if err := refuseSymlink(m.target); err != nil {
		return err
	}
	below, err := os.ReadDir(m.target)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	m.hidden = len(below)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse (is the kernel module fuse loaded?): %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=%d", fd, m.opts.MaxRead)
	if m.opts.AllowOther {
		data += ",allow_other"
	}
	if err := unix.Mount(m.opts.Volume, m.target, fsType, unix.MS_NODEV, data); err != nil {
		unix.Close(fd)
		return fmt.Errorf("mount %s (root is needed): %w", m.target, err)
	}
	m.fd, m.session, m.state, m.handed, m.lost, m.init, m.reply = fd, newSessionID(), Fresh, false, false, nil, nil
	m.orphan = false
	entry, mounted, err := topmost(m.target)
	if err != nil || !mounted {
		m.teardown()
		return errors.Join(err, fmt.Errorf("mount %s: it does not appear in /proc/self/mountinfo", m.target))
	}
	m.connection = entry.minor
	m.abort, _ = openAbort(entry.minor) // without it, closing the last descriptor still aborts
	return nil
}

// readAhead sets how far the kernel reads ahead. INIT cannot: the kernel takes at most its own 128 KiB there, which keeps one request in
// flight where several are faster. Where /sys does not allow it, reads are slower and nothing else. m.mu is held.
func (m *Mount) readAhead() {
	file := fmt.Sprintf("/sys/class/bdi/0:%d/read_ahead_kb", m.connection)
	_ = os.WriteFile(file, []byte(fmt.Sprint(m.opts.ReadAhead)), 0)
}

func refuseSymlink(target string) error {
	var st unix.Stat_t // safe: mount has seen that nothing is mounted here
	if err := unix.Lstat(target, &st); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("mount %s: it must be a directory (not a link to one); fix: move it away", target)
	}
	return nil
}

func newSessionID() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		if id := binary.LittleEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}

// Target returns the resolved path of the mount point.
func (m *Mount) Target() string { return m.target }

// Hidden returns how many entries the directory had of its own when it was mounted over: somebody wrote there while nothing was mounted,
// and sees none of it now.
func (m *Mount) Hidden() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hidden
}

// SessionID returns the ID of this connection: random, never zero, new after each Remount.
func (m *Mount) SessionID() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session
}

// Connection returns the number of the connection in /sys/fs/fuse/connections.
func (m *Mount) Connection() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.connection
}

// State returns how far the mount has come.
func (m *Mount) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Abort ends the connection: every waiting call of a program gets ECONNABORTED or ENOTCONN, for good. The mount stays in the
// tree until the next sidecar attaches, which gets a new one.
func (m *Mount) Abort() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = true
	return m.abortLocked()
}

func (m *Mount) abortLocked() error {
	if m.abort == nil {
		return nil
	}
	if err := writeAbort(m.abort); err != nil {
		return fmt.Errorf("abort %s: %w", m.target, err)
	}
	return nil
}

// Unmount unmounts as umount(8) does: what programs wrote by mmap reaches the sidecar first, so the sidecar must be serving. It
// returns ErrBusy while a program has something open, and ctx's error when the sidecar does not answer; the mount may then be
// half gone and the caller should Close it. The connection stays open until Close.
func (m *Mount) Unmount(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- unix.Unmount(m.target, unix.UMOUNT_NOFOLLOW) }() // ends at the latest when Close aborts
	select {
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: %w", m.target, ctx.Err())
	case err := <-done:
		switch {
		case err == nil || errors.Is(err, unix.EINVAL): // EINVAL: not a mount point (any more)
			return nil
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmount %s: %w", m.target, ErrBusy)
		default:
			return fmt.Errorf("unmount %s: %w", m.target, err)
		}
	}
}

// Detach takes the mount out of the tree at once; programs that have something open there go on as long as it is served.
func (m *Mount) Detach() error { return detach(m.target) }

// Remount aborts and detaches the mount and makes it anew with another connection and session ID.
func (m *Mount) Remount() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fd < 0 && !m.orphan {
		return fmt.Errorf("remount %s: %w", m.target, ErrClosed)
	}
	if err := m.teardown(); err != nil {
		return err
	}
	return m.mount()
}

// Close aborts the connection, detaches the mount and gives the descriptor back. It never waits for a sidecar. Closing twice is
// harmless.
func (m *Mount) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fd < 0 && !m.orphan {
		return nil
	}
	return m.teardown()
}

// teardown removes all traces of the connection. m.mu is held.
func (m *Mount) teardown() error {
	err := errors.Join(m.abortLocked(), detach(m.target))
	if m.abort != nil {
		m.abort.Close()
		m.abort = nil
	}
	m.orphan = false
	if m.fd >= 0 {
		unix.Close(m.fd) // the last copy of the descriptor aborts the connection by itself
		m.fd = -1
	}
	return err
}
