package replication_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// TestFailedWrites fails one write or sync at a time, once: the replica stops and acknowledges nothing more, although the disk works
// again; after a restart nothing acknowledged is missing, whether the cache survives or not (I8).
func TestFailedWrites(t *testing.T) {
	stopped, tried := map[faultfs.Kind]int{}, 0
	for s := uint64(1); s <= uint64(*seeds)*4; s++ {
		fs := replicationtest.NewDisk(t, s)
		h := replicationtest.NewSmallHistory(t, s, fs)
		first, _ := fs.Calls()
		var victim atomic.Pointer[faultfs.Op]
		fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			changes := op.Kind == faultfs.Write || op.Kind == faultfs.Sync || op.Kind == faultfs.SyncDir || op.Kind == faultfs.Create
			if changes && op.Call-first > int64(s*7%400) && victim.CompareAndSwap(nil, op) {
				op.Part = op.Len / 3
				return fmt.Errorf("%s: %w", op.Path, syscall.EIO)
			}
			return nil
		}})
		require.NoError(t, h.RunToFailure(100), "seed %d", s)
		failed := victim.Load()
		if failed == nil {
			h.Stop()
			continue
		}
		tried++
		if h.Err() != nil {
			stopped[failed.Kind]++
			require.Error(t, h.Sync(), "seed %d: acknowledged after a failed %v of %s", s, failed.Kind, failed.Path)
			require.Error(t, h.Sync(), "seed %d: acknowledged by the second try", s)
		}
		require.NoError(t, h.RestartFrom(fs, s), "seed %d: %v of %s, call %d", s, failed.Kind, failed.Path, failed.Call-first)
	}
	require.NotEmpty(t, stopped)
	t.Logf("%d failed calls, replicas stopped by kind of call: %v", tried, stopped)
}

// listOfFiles tells a change of what Pebble finds its files by: it would end the process where one fails.
func listOfFiles(op *faultfs.Op) bool {
	switch op.Kind {
	case faultfs.Read, faultfs.Open, faultfs.Remove, faultfs.Mkdir:
		return false
	case faultfs.SyncDir:
		return strings.HasSuffix(op.Path, "/meta")
	default:
		return strings.HasPrefix(op.Base(), "MANIFEST-") || strings.HasPrefix(op.Base(), "marker.")
	}
}

// failOnce fails the nth change of the list of files.
func failOnce(n int, fired *atomic.Pointer[faultfs.Op]) *faultfs.Hooks {
	var seen atomic.Int64
	return &faultfs.Hooks{Before: func(op *faultfs.Op) error {
		if listOfFiles(op) && seen.Add(1) == int64(n) {
			op.Part = op.Len / 3
			fired.Store(op)
			return fmt.Errorf("%s: %w", op.Path, syscall.EIO)
		}
		return nil
	}}
}

// TestFailedListOfFiles: a failed change of Pebble's list of files stops the replica, not the process; nothing is written after it, reads
// go on, and after a restart everything acknowledged is there.
func TestFailedListOfFiles(t *testing.T) {
	kinds := map[string]int{}
	for n := 1; n <= *seeds; n++ {
		s := uint64(n)
		fs := replicationtest.NewDisk(t, s)
		h := replicationtest.NewSmallHistory(t, s, fs)
		var fired atomic.Pointer[faultfs.Op]
		fs.Watch(failOnce(n, &fired))
		require.NoError(t, h.RunToFailure(400), "change %d", n)
		op := fired.Load()
		require.NotNil(t, op, "change %d did not come", n)
		require.Error(t, h.Err(), "change %d: %v of %s", n, op.Kind, op.Path)
		kinds[fmt.Sprint(op.Kind, " ", strings.TrimRight(op.Base(), "0123456789-."))]++
		require.NoError(t, h.RestartFrom(fs, s), "change %d: %v of %s", n, op.Kind, op.Path)
	}
	t.Logf("%v", kinds)
}

// TestFailedReads fails reads: the reader gets an error, never other bytes, and the next read is right.
func TestFailedReads(t *testing.T) {
	reads, errors := 0, 0
	for s := uint64(1); s <= uint64(*seeds); s++ {
		fs := replicationtest.NewDisk(t, s)
		h := replicationtest.NewSmallHistory(t, s, fs)
		require.NoError(t, h.RunToFailure(80))
		require.NoError(t, h.Err())
		var n atomic.Int64
		fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			if k := n.Add(1); op.Kind == faultfs.Read && k%3 == 0 {
				return syscall.EIO
			}
			return nil
		}})
		bad := h.ReadAllUnder()
		fs.Watch(nil)
		reads += int(n.Load())
		errors += bad
		h.ReadAllUnder() // may still share what a compaction, say, began to read before
		h.Same()
		h.Stop()
	}
	t.Logf("%d calls, %d files could not be read", reads, errors)
	require.NotZero(t, errors)
}
