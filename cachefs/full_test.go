package cachefs

import (
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/telemetry"
)

// fullLog is a log on a disk that may be full: it has no room for growth then, and takes so many more records.
type fullLog struct {
	keptLog
	full  bool
	takes atomic.Int64 // records, while it is full
}

func (l *fullLog) Append(r *record.Record, ref telemetry.SpanRef) error {
	if l.full && l.takes.Add(-1) < 0 {
		return syscall.ENOSPC
	}
	return l.keptLog.Append(r, ref)
}

func (l *fullLog) Room(int64) error {
	if l.full {
		return syscall.ENOSPC
	}
	return nil
}

func openFull(t *testing.T, l *fullLog, newSession bool) *FS {
	fs, err := Open(t.Context(), Config{Log: l, State: l, Epoch: 1, Incarnation: 1, Session: 7, NewSession: newSession, Size: 1 << 40,
		RetryAfter: time.Millisecond, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	return fs
}

// fill makes the log full, or not, between two of the reaper's tries.
func (l *fullLog) fill(fs *FS, full bool, takes int64) {
	fs.mu.Lock()
	l.full = full
	l.takes.Store(takes)
	fs.mu.Unlock()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, 20*time.Second, time.Millisecond, what)
}

// largeFile has one block in each of so many chunks.
func largeFile(t *testing.T, fs *FS, name string, chunks int) meta.Ino {
	a, err := fs.Create(&Caller{}, meta.Root, name, Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	data := make([]byte, record.BlockSize)
	for i := range data {
		data[i] = 7
	}
	for i := range chunks {
		_, err := fs.Write(&Caller{}, a.Ino, uint64(i)*record.ChunkSize, data, false)
		require.NoError(t, err)
	}
	return a.Ino
}

// TestFullGrowth: what makes a volume larger is refused before it changes anything, everything else goes on.
func TestFullGrowth(t *testing.T) {
	log := &fullLog{}
	fs := openFull(t, log, true)
	defer fs.Close()
	small, err := fs.Create(&Caller{}, meta.Root, "small", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	large := largeFile(t, fs, "large", 3)
	_, err = fs.Create(&Caller{}, meta.Root, "dir", Node{Mode: syscall.S_IFDIR | 0o755})
	require.NoError(t, err)
	sized := func(ino meta.Ino, size uint64) error {
		_, err := fs.SetAttr(&Caller{}, ino, SetAttr{Size: &size})
		return err
	}
	made := func(name string, mode uint32) error {
		_, err := fs.Create(&Caller{}, meta.Root, name, Node{Mode: mode, Target: map[bool]string{true: "x"}[mode == syscall.S_IFLNK]})
		return err
	}
	log.fill(fs, true, 1<<40)
	records := len(log.kept)
	for what, call := range map[string]func() error{
		"truncate grows a small file": func() error { return sized(small.Ino, 100) },
		"truncate grows a large file": func() error { return sized(large, 5*record.ChunkSize) },
		"fallocate":                   func() error { return fs.Fallocate(&Caller{}, large, 0, 0, 5*record.ChunkSize) },
		"fallocate, size kept":        func() error { return fs.Fallocate(&Caller{}, small.Ino, FallocKeepSize, 0, 5*record.ChunkSize) },
		"zero range grows":            func() error { return fs.Fallocate(&Caller{}, small.Ino, FallocZeroRange, 0, 100) },
		"mkdir":                       func() error { return made("new", syscall.S_IFDIR) },
		"symlink":                     func() error { return made("new", syscall.S_IFLNK) },
		"mknod":                       func() error { return made("new", syscall.S_IFIFO) },
		"create":                      func() error { return made("new", syscall.S_IFREG) },
		"write":                       func() error { _, err := fs.Write(&Caller{}, large, 0, []byte("x"), false); return err },
		"link":                        func() error { _, err := fs.Link(&Caller{}, large, meta.Root, "new"); return err },
		"tmpfile":                     func() error { _, err := fs.Tmpfile(&Caller{}, meta.Root, Node{Mode: syscall.S_IFREG}); return err },
		"setxattr":                    func() error { return fs.SetXattr(&Caller{}, large, "user.x", []byte("y"), 0) },
		"rename to a longer name":     func() error { return fs.Rename(&Caller{}, meta.Root, "large", meta.Root, "larger", 0) },
	} {
		require.ErrorIs(t, call(), syscall.ENOSPC, what)
		require.Len(t, log.kept, records, what)
	}
	mode := uint32(0o600)
	for _, c := range []struct {
		what string
		err  error
	}{
		{"chmod", func() error { _, err := fs.SetAttr(&Caller{}, large, SetAttr{Mode: &mode}); return err }()},
		{"truncate to the same size", sized(small.Ino, 0)},
		{"punch", fs.Fallocate(&Caller{}, large, FallocPunchHole|FallocKeepSize, 0, record.BlockSize)},
		{"truncate shrinks", sized(large, record.ChunkSize)},
		{"rename to a name of the same length", fs.Rename(&Caller{}, meta.Root, "large", meta.Root, "egral", 0)},
		{"rename over a file", fs.Rename(&Caller{}, meta.Root, "small", meta.Root, "egral", 0)},
		{"rmdir", fs.Rmdir(&Caller{}, meta.Root, "dir")},
		{"unlink", fs.Unlink(&Caller{}, meta.Root, "egral")},
	} {
		require.NoError(t, c.err, c.what)
	}
	fs.Forget(large, 1<<40)
	fs.Forget(small.Ino, 1<<40)
	eventually(t, "space comes back", func() bool { return fs.Statfs().Used == 0 })
	log.fill(fs, false, 0)
	require.NoError(t, made("new", syscall.S_IFREG))
}

// TestOrphanWaitsForSpace: an unlinked file that cannot be removed because the journal is full is removed when it is not any more.
func TestOrphanWaitsForSpace(t *testing.T) {
	for _, takes := range []int64{0, 1, 2} { // of the three records
		log := &fullLog{}
		fs := openFull(t, log, true)
		ino := largeFile(t, fs, "file", 2*chunksPerRecord+1)
		require.NoError(t, fs.Unlink(&Caller{}, meta.Root, "file"))
		log.fill(fs, true, takes)
		fs.Forget(ino, 1<<40)
		eventually(t, "it is tried again and again", func() bool { return log.takes.Load() < -3 })
		require.Equal(t, uint64(2*chunksPerRecord+1-int(takes)*chunksPerRecord)*record.BlockSize, fs.Statfs().Used)
		log.fill(fs, false, 0)
		eventually(t, "it is removed", func() bool { return fs.Statfs().Used == 0 })
		fs.Close()
		_, err := fs.Attr(ino)
		require.ErrorIs(t, err, syscall.ESTALE)
	}
}

// TestTruncateWaitsForSpace: a truncation whose follow-up records find no space is answered with success, since the size is what it
// should be. What was behind the end never shows again, and its space comes back.
func TestTruncateWaitsForSpace(t *testing.T) {
	const n = 2*chunksPerRecord + 1
	for _, unlinked := range []bool{false, true} {
		log := &fullLog{}
		fs := openFull(t, log, true)
		ino := largeFile(t, fs, "file", n)
		if unlinked {
			require.NoError(t, fs.Unlink(&Caller{}, meta.Root, "file"))
		}
		log.fill(fs, true, 1) // the first record and no other
		size := uint64(10)
		a, err := fs.SetAttr(&Caller{}, ino, SetAttr{Size: &size})
		require.NoError(t, err)
		require.Equal(t, size, a.Size)
		require.NotZero(t, fs.Statfs().Used)
		log.fill(fs, false, 1)
		size = n * record.ChunkSize
		_, err = fs.SetAttr(&Caller{}, ino, SetAttr{Size: &size})
		require.NoError(t, err)
		b := make([]byte, record.BlockSize)
		for i := 1; i < n; i++ {
			_, err := fs.Read(&Caller{}, ino, uint64(i)*record.ChunkSize, b)
			require.NoError(t, err)
			require.Zero(t, b[0], "chunk %d is back", i)
		}
		eventually(t, "space comes back", func() bool { return fs.Statfs().Used <= 1*record.BlockSize })
		fs.Close()
		kinds, err := fs.orphans()
		require.NoError(t, err)
		if unlinked {
			require.Equal(t, map[meta.Ino]meta.OrphanKind{ino: meta.OrphanUnlinked}, kinds, "it must be removed in the end")
		} else {
			require.Empty(t, kinds)
		}
	}
}

// TestNextProcessEndsTruncation: of an open file that has no name, too.
func TestNextProcessEndsTruncation(t *testing.T) {
	const n = 2*chunksPerRecord + 1
	for _, unlinked := range []bool{false, true} {
		log := &fullLog{}
		first := openFull(t, log, true)
		ino := largeFile(t, first, "file", n)
		if unlinked {
			require.NoError(t, first.Unlink(&Caller{}, meta.Root, "file"))
		}
		log.fill(first, true, 1)
		size := uint64(10)
		_, err := first.SetAttr(&Caller{}, ino, SetAttr{Size: &size})
		require.NoError(t, err)
		first.closing.Store(true)
		state := &overlayState{fs: first}
		first.mu.Lock() // the process dies
		log.full = false
		next, err := Open(t.Context(), Config{Log: log, State: state, Epoch: 2, Incarnation: 2, Session: 7, Size: 1 << 40,
			Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, false)
		require.NoError(t, err)
		require.LessOrEqual(t, next.Statfs().Used, uint64(record.BlockSize))
		kinds, err := next.orphans()
		require.NoError(t, err)
		require.Equal(t, unlinked, len(kinds) == 1)
		next.Close()
		first.mu.Unlock()
		first.Close()
	}
}

// overlayState is what another process has left: its overlay.
type overlayState struct {
	State
	fs *FS
}

func (s *overlayState) Get(key []byte) ([]byte, bool, error) {
	v, deleted, ok := s.fs.over.get(key)
	return v, ok && !deleted, nil
}

func (s *overlayState) Scan(lower, upper []byte, visit func(k, v []byte) error) error {
	return s.fs.scan(lower, upper, func(k, v []byte) (bool, error) {
		err := visit(k, v)
		return err == nil, err
	})
}
