package cachefs

import (
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// A write for which there is not enough room writes what fits, and a request that is sent again is told the same.
func TestWriteUpToTheLimit(t *testing.T) {
	const blocks = 100
	log := &keptLog{}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true, Size: blocks * record.BlockSize,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	defer fs.Close()
	write := func(ino meta.Ino, off uint64, n, want int) {
		t.Helper()
		got, err := fs.Write(&Caller{Unique: 2}, ino, off, make([]byte, n), false)
		if want == 0 {
			require.ErrorIs(t, err, syscall.ENOSPC)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, want, AnswerSize(log.kept[len(log.kept)-1].Answer, n))
	}
	create := func(name string) meta.Ino {
		a, err := fs.Create(&Caller{}, meta.Root, name, Node{Mode: syscall.S_IFREG | 0o644})
		require.NoError(t, err)
		return a.Ino
	}
	a, b := create("a"), create("b")
	write(a, 100, 1000, 1000)                                                     // inline
	write(a, 5000, 1000, 1000)                                                    // two blocks now
	write(b, 10*record.BlockSize, 4*record.BlockSize, 4*record.BlockSize)         // in the middle of what is to be written
	write(b, 5*record.BlockSize-10, 200*record.BlockSize, 97*record.BlockSize+10) // blocks 4 to 101
	require.Equal(t, uint64(blocks*record.BlockSize), fs.Statfs().Used)
	write(b, 0, 10, 0)
	write(b, 10*record.BlockSize, 3*record.BlockSize, 3*record.BlockSize)
	write(a, 4096, 1<<20, record.BlockSize)
}
