package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/session"
	"github.com/remora-storage/remora/telemetry"
)

// memory is a log that keeps nothing and a state that has nothing: the file system lives in its overlay.
type memory struct{ cachefs.State }

func (memory) Append(*record.Record, telemetry.SpanRef) error    { return nil }
func (memory) OnApplied(func([]*record.Record))                  {}
func (memory) Admit() error                                      { return nil }
func (memory) Room(int64) error                                  { return nil }
func (memory) Get([]byte) ([]byte, bool, error)                  { return nil, false, nil }
func (memory) Scan(_, _ []byte, _ func(k, v []byte) error) error { return nil }
func (memory) Answer(uint64, uint64) ([]byte, bool)              { return nil, false }
func (memory) Wait(context.Context, record.Seq) (telemetry.SpanRef, error) {
	return telemetry.SpanRef{}, nil
}

// holder notes what it is told.
type holder struct{ init, reply []byte }

func (h *holder) StoreInit(init, reply []byte) error {
	h.init, h.reply = init, reply
	return nil
}
func (h *holder) Ready() error { return nil }
func (h *holder) Lost() error  { return nil }

// kernel is the other end of a connection.
type kernel struct {
	t      *testing.T
	fd     int
	unique uint64
}

// connect makes a connection and a file system for it.
func connect(t *testing.T) (*kernel, session.Config, *cachefs.FS) {
	t.Helper()
	return connectTo(t, memory{})
}

// volume is a log and a state.
type volume interface {
	cachefs.Log
	cachefs.State
}

func connectTo(t *testing.T, v volume) (*kernel, session.Config, *cachefs.FS) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	k := &kernel{t: t, fd: fds[0]}
	require.NoError(t, unix.SetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	fs, err := cachefs.Open(t.Context(), cachefs.Config{Log: v, State: v, Epoch: 1, Incarnation: 1, Session: 1, NewSession: true,
		Size: 1 << 30, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	return k, session.Config{FD: fds[1], Connection: &holder{}, Volume: "v", Logger: slog.New(slog.DiscardHandler)}, fs
}

// request sends a request and returns the errno and the body of its answer.
func (k *kernel) request(opcode uint32, node uint64, body ...any) (syscall.Errno, []byte) {
	k.t.Helper()
	k.send(opcode, node, body...)
	return k.answer()
}

func (k *kernel) send(opcode uint32, node uint64, body ...any) {
	k.t.Helper()
	var b bytes.Buffer
	for _, v := range body {
		if s, ok := v.(string); ok {
			v = append([]byte(s), 0)
		}
		require.NoError(k.t, binary.Write(&b, binary.LittleEndian, v))
	}
	k.unique += 2
	var h bytes.Buffer
	require.NoError(k.t, binary.Write(&h, binary.LittleEndian, struct {
		Len, Opcode        uint32
		Unique, Node       uint64
		UID, GID, PID, Ext uint32
	}{uint32(40 + b.Len()), opcode, k.unique, node, 1, 1, 0, 0}))
	_, err := unix.Write(k.fd, append(h.Bytes(), b.Bytes()...))
	require.NoError(k.t, err)
}

func (k *kernel) answer() (syscall.Errno, []byte) {
	k.t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Read(k.fd, buf)
	require.NoError(k.t, err)
	require.GreaterOrEqual(k.t, n, 16)
	return syscall.Errno(-int32(binary.LittleEndian.Uint32(buf[4:]))), buf[16:n]
}

const allFlags = 1<<64 - 1

// init sends INIT.
func (k *kernel) init(flags uint64) {
	k.t.Helper()
	k.send(26, 0, struct{ Major, Minor, ReadAhead, Flags, Flags2 uint32 }{7, 45, 1 << 20, uint32(flags), uint32(flags >> 32)}, [11]uint32{})
}

var acl = meta.ACL{{Tag: meta.ACLUserObj, Perm: 7}, {Tag: meta.ACLUser, Perm: 7, ID: 5}, {Tag: meta.ACLGroupObj, Perm: 5}, {Tag: meta.ACLMask, Perm: 5},
	{Tag: meta.ACLOther, Perm: 1}}.Append(nil)

// setACL sends SETXATTR as the kernel does on a connection with or without SETXATTR_EXT.
func (k *kernel) setACL(node uint64, extended bool) syscall.Errno {
	k.t.Helper()
	body := []any{uint32(len(acl)), uint32(0)}
	if extended {
		body = append(body, uint32(fuse.SETXATTR_ACL_KILL_SGID), uint32(0))
	}
	errno, _ := k.request(21, node, append(body, meta.XattrAccessACL, acl)...)
	return errno
}

// mkdir makes a directory and returns its inode and mode.
func (k *kernel) mkdir(name string) (uint64, uint32) {
	k.t.Helper()
	errno, out := k.request(9, 1, uint32(0o2777), uint32(0o022), name)
	require.Zero(k.t, errno)
	return binary.LittleEndian.Uint64(out), binary.LittleEndian.Uint32(out[40+60:])
}

// TestSuccessorAdoptsFlags: the kernel keeps the flags of the first reply to INIT. A successor that would have asked for more goes on
// with those: it neither takes ACLs that the kernel would not enforce, nor applies a umask a second time.
func TestSuccessorAdoptsFlags(t *testing.T) {
	const news = fuse.CAP_POSIX_ACL | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT
	for _, c := range []struct {
		name    string
		offered uint64
		mode    uint32
		acl     syscall.Errno
	}{
		{"of a version that knew no ACLs", allFlags &^ news, 0o2777, syscall.EOPNOTSUPP}, // the kernel has applied the umask
		{"of this version", allFlags, 0o2755, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, cfg, fs := connect(t)
			k.init(c.offered) // as if the other version had not asked for the rest
			first, err := session.Start(cfg, fs)
			require.NoError(t, err)
			errno, reply := k.answer()
			require.Zero(t, errno)
			require.Equal(t, c.offered&news, uint64(binary.LittleEndian.Uint32(reply[12:]))&news)
			h := cfg.Connection.(*holder)
			require.True(t, bytes.HasSuffix(h.reply, reply))
			_, mode := k.mkdir("first")
			require.Equal(t, c.mode, mode&0o7777)

			// The first process dies, and the kernel's INIT is replayed as the holder has it: with all that the kernel offers.
			next, cfg2, fs2 := connect(t)
			init := bytes.Clone(h.init)
			binary.LittleEndian.PutUint32(init[40+12:], 1<<32-1)
			binary.LittleEndian.PutUint32(init[40+16:], 1<<32-1)
			cfg2.Init, cfg2.Reply = init, h.reply
			second, err := session.Start(cfg2, fs2)
			require.NoError(t, err)
			code, _ := next.answer() // FUSE_NOTIFY_RESEND
			require.EqualValues(t, -7, int32(code))
			ino, mode := next.mkdir("second")
			require.Equal(t, c.mode, mode&0o7777)
			require.Equal(t, c.acl, next.setACL(ino, c.acl == 0))
			if c.acl == 0 {
				a, err := fs2.Attr(meta.Ino(ino))
				require.NoError(t, err)
				require.EqualValues(t, 0o751, a.Mode&0o7777, "the ACL's mode, and no set-group-ID")
			}
			for _, end := range []struct {
				k *kernel
				s *session.Session
			}{{k, first}, {next, second}} {
				require.NoError(t, unix.Close(end.k.fd))
				require.Error(t, end.s.Wait(t.Context()))
			}
			fs.Close()
			fs2.Close()
		})
	}
}

// TestSuccessorRefusesOtherFlags: a connection with a flag that this version does not know cannot be taken over.
func TestSuccessorRefusesOtherFlags(t *testing.T) {
	k, cfg, fs := connect(t)
	defer fs.Close()
	k.init(allFlags)
	first, err := session.Start(cfg, fs)
	require.NoError(t, err)
	_, _ = k.answer()
	h := cfg.Connection.(*holder)
	_, cfg2, fs2 := connect(t)
	defer fs2.Close()
	cfg2.Init, cfg2.Reply = h.init, bytes.Clone(h.reply)
	cfg2.Reply[16+12] |= 1 << 1 // POSIX_LOCKS
	_, err = session.Start(cfg2, fs2)
	require.ErrorIs(t, err, session.ErrOtherFlags)
	require.NoError(t, unix.Close(k.fd))
	require.Error(t, first.Wait(t.Context()))
}
