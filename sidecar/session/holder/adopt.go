package holder

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotMounted: there is no mount of this package to adopt.
var ErrNotMounted = errors.New("no mount of remora is there")

// Adopt takes charge of a mount that an earlier holder made at target. Its descriptor comes with the offer of the sidecar that serves it;
// if a sidecar attaches instead, the mount is made anew.
func Adopt(target string, o MountOptions) (*Mount, error) {
	m, err := newMount(target, o)
	if err != nil {
		return nil, err
	}
	entry, mounted, err := topmost(m.target)
	if err != nil {
		return nil, err
	}
	if !mounted || entry.fs != fsType {
		return nil, fmt.Errorf("adopt %s: %w", m.target, ErrNotMounted)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.connection, m.orphan = entry.minor, true
	m.abort, _ = openAbort(entry.minor)
	return m, nil
}

// Release gives the descriptor away and leaves the mount in the tree: a sidecar that serves it goes on, and the next holder adopts it.
func (m *Mount) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.abort != nil {
		m.abort.Close()
		m.abort = nil
	}
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
	m.fd, m.orphan = -1, false
}

// Orphan tells whether the descriptor is still missing after Adopt.
func (m *Mount) Orphan() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.orphan
}

// takeBack makes fd ours, or says why not.
func (m *Mount) takeBack(fd int, r request) error {
	session, err := strconv.ParseUint(r.Session, 16, 64)
	if err != nil || session == 0 {
		return fmt.Errorf("offer: session %q is not a number", r.Session)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.orphan {
		if m.fd >= 0 && m.session == session && m.state == Ready && !m.lost {
			unix.Close(fd) // we have it: only the connection to the sidecar was cut
			return nil
		}
		return errors.New("offer: the mount has another connection by now")
	}
	if m.lost {
		return errors.New("offer: the connection was ended")
	}
	if len(r.Init) == 0 || len(r.Reply) == 0 {
		return errors.New("offer: init and reply must not be empty")
	}
	if err := checkConnection(fd, m.connection); err != nil {
		return err
	}
	m.fd, m.session, m.init, m.reply = fd, session, r.Init, r.Reply
	m.state, m.handed, m.orphan = Ready, true, false
	return nil
}

// fuseDevice is the device number of /dev/fuse (Documentation/admin-guide/devices.txt).
var fuseDevice = unix.Mkdev(10, 229)

// checkConnection refuses what is not a descriptor of that connection, as far as the kernel tells: before Linux 6.18 it does not name a
// descriptor's connection. A sidecar that lies there gets its own lie back.
func checkConnection(fd int, connection uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != fuseDevice {
		return errors.New("offer: the descriptor is not of /dev/fuse")
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	for _, line := range strings.Split(string(info), "\n") {
		number, ok := strings.CutPrefix(line, "fuse_connection:")
		if ok && strings.TrimSpace(number) != strconv.FormatUint(uint64(connection), 10) {
			return fmt.Errorf("offer: the descriptor is of connection %s, not %d", strings.TrimSpace(number), connection)
		}
	}
	return nil
}

// rights keeps the descriptor that came last with a connection's requests; others are closed.
type rights struct{ fd *int }

func (r *rights) put(fd int) {
	r.close()
	r.fd = &fd
}

// take returns the descriptor, which is the caller's from now on, or -1.
func (r *rights) take() int {
	if r.fd == nil {
		return -1
	}
	fd := *r.fd
	r.fd = nil
	return fd
}

func (r *rights) close() {
	if fd := r.take(); fd >= 0 {
		unix.Close(fd)
	}
}

// rightsReader reads a connection and keeps the descriptors that come along.
type rightsReader struct {
	*net.UnixConn
	rights *rights
}

func (r *rightsReader) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := r.ReadMsgUnix(b, oob)
	if oobn > 0 {
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				r.rights.put(fd)
			}
		}
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}
