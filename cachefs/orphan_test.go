package cachefs

import (
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
)

// After a take-over, the kernel is asked before an unlinked file is removed: it may have forgotten one that no FORGET came for, and it
// may know one for which more FORGETs came than this process has counted.
func TestTookOver(t *testing.T) {
	log := &keptLog{}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Epoch: 1, Incarnation: 1, Session: 7, Size: 1 << 30,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	unlinked := func(name string) meta.Ino {
		a, err := fs.Create(&Caller{}, meta.Root, name, Node{Mode: syscall.S_IFREG | 0o644})
		require.NoError(t, err)
		_, err = fs.Write(&Caller{}, a.Ino, 0, make([]byte, 1<<16), false)
		require.NoError(t, err)
		require.NoError(t, fs.Unlink(&Caller{}, meta.Root, name))
		return a.Ino
	}
	open, forgotten := unlinked("open"), unlinked("forgotten")
	clear(fs.lookups) // what the other process had counted
	asked := make(chan meta.Ino, 10)
	knows := map[meta.Ino]bool{open: true}
	fs.TookOver(func(ino meta.Ino) bool {
		asked <- ino
		return knows[ino]
	})
	require.ElementsMatch(t, []meta.Ino{open, forgotten}, []meta.Ino{<-asked, <-asked})
	fs.Remembered(open)
	fs.Forget(open, 5) // what was forgotten before it was looked up again
	require.Equal(t, open, <-asked)
	fs.Close()
	_, err = fs.Attr(open)
	require.NoError(t, err)
	_, err = fs.Attr(forgotten)
	require.ErrorIs(t, err, syscall.ESTALE)
	require.Equal(t, uint64(1<<16), fs.Statfs().Used)
}
