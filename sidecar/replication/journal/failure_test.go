package journal

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// TestFailureIsFinal: after one failed operation of the disk, every call returns that failure.
func TestFailureIsFinal(t *testing.T) {
	for _, op := range []string{"write", "sync", "create", "rename", "remove"} {
		t.Run(op, func(t *testing.T) {
			broken := false
			fs := &faultFS{FS: vfs.NewMem(), before: func(o, _ string, _ int) (int, error) {
				if broken && o == op {
					return 0, errInjected
				}
				return 0, nil
			}}
			o := testOptions(fs)
			o.MaxFree = -1
			j, _ := mustOpen(t, o)
			mustAppend(t, j, "before")
			synced := mustSync(t, j)
			broken = true
			var err error
			for i := 0; err == nil && i < 100; i++ {
				if _, err = j.Append(KindPayload, 1, 1, make([]byte, 4000)); err == nil && i%10 == 0 {
					_, err = j.Sync()
				}
				if err == nil {
					err = j.Release(j.Synced())
				}
			}
			var failed *FailedError
			require.ErrorAs(t, err, &failed)
			require.ErrorIs(t, err, errInjected)
			broken = false
			_, err = j.Append(KindPayload, 1, 1)
			require.Same(t, failed, err)
			_, err = j.Sync()
			require.Same(t, failed, err)
			require.Same(t, failed, j.Prepare())
			require.Same(t, failed, j.Release(j.End()))
			require.GreaterOrEqual(t, j.Synced(), synced)
			require.Same(t, failed, j.Close())
		})
	}
}

// TestNoSpace: a full disk refuses frames that need a new segment, and nothing else.
func TestNoSpace(t *testing.T) {
	full := false
	mem := vfs.NewMem()
	fs := &faultFS{FS: mem, before: func(op, name string, size int) (int, error) {
		if full && op == "write" && size == zeroFillBytes {
			return 100, fmt.Errorf("%s %s: %w", op, name, syscall.ENOSPC)
		}
		return 0, nil
	}}
	j, _ := mustOpen(t, testOptions(fs))
	full = true
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = j.Append(KindPayload, 1, 1, make([]byte, 20000))
	}
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorIs(t, j.Prepare(), ErrNoSpace)
	mustAppend(t, j, "this still fits")
	mustSync(t, j)
	require.NoError(t, j.Close())

	j, frames := mustOpen(t, testOptions(fs))
	require.Len(t, frames, n)
	require.Nil(t, j.cur, "no space for a segment")
	end := j.End()
	_, err = j.Append(KindPayload, 1, 1)
	require.ErrorIs(t, err, ErrNoSpace)
	require.Equal(t, end, mustSync(t, j))
	require.NoError(t, j.Release(end))
	full = false
	mustAppend(t, j, "space again")
	require.NoError(t, j.Close())
	_, frames = mustOpen(t, testOptions(mem))
	require.Len(t, frames, n+1)
}

// TestOpenWritesAgain: what no witness covers is not trusted to the page cache of a process that may have died of a failed fsync.
func TestOpenWritesAgain(t *testing.T) {
	mem := vfs.NewMem()
	j, _ := mustOpen(t, testOptions(mem))
	mustAppend(t, j, "synced")
	mustSync(t, j)
	mustAppend(t, j, "witness")
	mustAppend(t, j, strings.Repeat("x", 10000))
	written := 0
	fs := &faultFS{FS: mem, before: func(op, name string, size int) (int, error) {
		if op == "write" && name == segmentName(1) {
			written += size
		}
		return 0, nil
	}}
	_, frames := mustOpen(t, testOptions(fs))
	require.Len(t, frames, 3)
	require.Equal(t, int(frames[2].end-frames[1].lsn), written)
}
