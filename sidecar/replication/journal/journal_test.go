package journal

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func TestAppendSyncReopen(t *testing.T) {
	fs, o := crashable(t)
	j, frames := mustOpen(t, o)
	require.Empty(t, frames)
	require.Equal(t, LSN(minSegmentBytes+4096), j.End())
	require.Equal(t, j.End(), j.Synced())
	require.Equal(t, j.End(), j.Start())

	_, err := j.AppendPayload(1, 2, Payload{Epoch: 3, Incarnation: 4, Seq: 5, Record: []byte("record")})
	require.NoError(t, err)
	_, err = j.AppendBinding(1, 2, Binding{Index: 6, Term: 7, Epoch: 3, Seq: 5, Count: 1})
	require.NoError(t, err)
	_, err = j.AppendEntry(1, 2, Entry{Index: 7, Term: 7, Type: 1, Data: []byte("change")})
	require.NoError(t, err)
	end, err := j.AppendHardState(1, 2, HardState{Term: 7, Vote: 2, Commit: 6})
	require.NoError(t, err)
	require.Equal(t, end, j.End())
	require.Less(t, j.Synced(), end)
	require.Equal(t, end, mustSync(t, j))
	require.Equal(t, end, j.Synced())
	mustAppend(t, j, "not synced")

	_, frames = mustOpen(t, testOptions(fs.CrashClone(vfs.CrashCloneCfg{})))
	require.Len(t, frames, 4)
	p, err := DecodePayload([]byte(frames[0].body))
	require.NoError(t, err)
	require.Equal(t, Payload{Epoch: 3, Incarnation: 4, Seq: 5, Record: []byte("record")}, p)
	b, err := DecodeBinding([]byte(frames[1].body))
	require.NoError(t, err)
	require.Equal(t, Binding{Index: 6, Term: 7, Epoch: 3, Seq: 5, Count: 1}, b)
	e, err := DecodeEntry([]byte(frames[2].body))
	require.NoError(t, err)
	require.Equal(t, Entry{Index: 7, Term: 7, Type: 1, Data: []byte("change")}, e)
	h, err := DecodeHardState([]byte(frames[3].body))
	require.NoError(t, err)
	require.Equal(t, HardState{Term: 7, Vote: 2, Commit: 6}, h)
	require.Equal(t, uint64(1), frames[3].group)
	require.Equal(t, uint64(2), frames[3].replica)
	require.Equal(t, end, frames[3].end)

	require.NoError(t, j.Close())
	require.NoError(t, j.Close(), "close again")
	_, err = j.Append(KindPayload, 1, 1)
	require.ErrorIs(t, err, ErrClosed)
	_, frames = mustOpen(t, testOptions(fs))
	require.Len(t, frames, 5, "a closed journal is synced")
}

func TestBodyLengths(t *testing.T) {
	o := testOptions(vfs.NewMem())
	o.SegmentBytes = 4 << 20
	j, _ := mustOpen(t, o)
	var want []string
	for _, n := range []int{0, 1, 63, 64, 65, copyBytes - 1, copyBytes, copyBytes + 1, 1 << 20, MaxBodyBytes} {
		body := strings.Repeat("x", n)
		want = append(want, body)
		_, err := j.Append(KindEntry, 0, 0, []byte(body[:n/3]), nil, []byte(body[n/3:]))
		require.NoError(t, err)
	}
	var tooLong *BodyError
	_, err := j.Append(KindEntry, 0, 0, make([]byte, MaxBodyBytes), []byte("x"))
	require.ErrorAs(t, err, &tooLong)
	_, err = j.Append(6, 0, 0)
	require.ErrorAs(t, err, &tooLong)
	require.NoError(t, j.Close())
	_, frames := mustOpen(t, o)
	require.Equal(t, want, bodies(frames))

	small, _ := mustOpen(t, testOptions(vfs.NewMem()))
	_, err = small.Append(KindEntry, 0, 0, make([]byte, small.maxBody()))
	require.NoError(t, err)
	_, err = small.Append(KindEntry, 0, 0, make([]byte, small.maxBody()+1))
	require.ErrorAs(t, err, &tooLong)
}

// TestRecycle: released segments are used again, and nothing that they held comes back.
func TestRecycle(t *testing.T) {
	fs := vfs.NewMem()
	o := testOptions(fs)
	o.MaxFree = 2
	j, _ := mustOpen(t, o)
	for i := range 500 {
		mustAppend(t, j, strings.Repeat(fmt.Sprint(i%10), 2000))
		if i%50 == 49 {
			end := mustSync(t, j)
			require.NoError(t, j.Release(end))
			require.NoError(t, j.Prepare())
		}
	}
	names, err := fs.List(testDir)
	require.NoError(t, err)
	require.LessOrEqual(t, len(names), 4, "current, prepared, two free: %v", names)
	require.NoError(t, j.Close())

	start := j.Start()
	_, frames := mustOpen(t, o)
	require.LessOrEqual(t, start, frames[0].lsn)
	require.Less(t, frames[0].lsn-start, LSN(testOptions(fs).SegmentBytes), "nothing lies between the two")
	require.Less(t, len(frames), 40)
	for i, f := range frames {
		n := 500 - len(frames) + i
		require.Equal(t, strings.Repeat(fmt.Sprint(n%10), 2000), f.body)
	}
}

// TestRestarts: a journal that is opened again and again without a frame does not grow.
func TestRestarts(t *testing.T) {
	fs := vfs.NewMem()
	for i := range 20 {
		j, frames := mustOpen(t, testOptions(fs))
		require.Len(t, frames, min(i, 1))
		if i == 0 {
			mustAppend(t, j, "one")
		}
		require.NoError(t, j.Close())
	}
	names, err := fs.List(testDir)
	require.NoError(t, err)
	require.Len(t, names, 2)
}

func TestReleaseKeepsUnsynced(t *testing.T) {
	j, _ := mustOpen(t, testOptions(vfs.NewMem()))
	for len(j.segs) < 3 {
		mustAppend(t, j, strings.Repeat("x", 5000))
	}
	require.NoError(t, j.Release(j.End()))
	require.Len(t, j.segs, 3)
	mustSync(t, j)
	require.NoError(t, j.Release(j.segs[1].end-1))
	require.Len(t, j.segs, 2)
	require.NoError(t, j.Release(j.End()))
	require.Len(t, j.segs, 1)
}

func TestVisitError(t *testing.T) {
	fs, frames := twoSegments(t)
	left := 5
	stop := func(Frame) error {
		if left--; left == 0 {
			return errInjected
		}
		return nil
	}
	_, err := Open(testOptions(fs), stop)
	require.Equal(t, errInjected, err)
	_, again := mustOpen(t, testOptions(fs))
	require.Equal(t, bodies(frames), bodies(again))
}

// TestAppendDuringSync: appends go on during an fdatasync; segments are synced in order; what an append takes for synced then is.
func TestAppendDuringSync(t *testing.T) {
	var j *Journal
	var order []string
	mem, _ := crashable(t)
	fs := &faultFS{FS: mem, before: func(op, name string, _ int) (int, error) {
		if op == "sync" && j != nil {
			order = append(order, name)
			require.LessOrEqual(t, j.Synced(), j.segs[len(order)-1].base+headerPageBytes)
			mustAppend(t, j, "appended during the sync")
		}
		return 0, nil
	}}
	opened, _ := mustOpen(t, testOptions(fs))
	for len(opened.segs) < 3 {
		mustAppend(t, opened, strings.Repeat("x", 9000))
	}
	j = opened
	want := j.End()
	require.Equal(t, want, mustSync(t, j))
	require.Len(t, order, 3)
	require.IsIncreasing(t, order)
	require.Greater(t, j.End(), want)
	require.Equal(t, want, j.Synced(), "what came during the sync may have missed it")
}

func TestConcurrent(t *testing.T) {
	fs, o := crashable(t)
	j, _ := mustOpen(t, o)
	var wg sync.WaitGroup
	const writers, each = 4, 200
	for g := range writers {
		wg.Go(func() {
			for i := range each {
				end, err := j.Append(KindPayload, uint64(g), uint64(i), make([]byte, 700))
				if err != nil {
					t.Error(err)
					return
				}
				if i%5 == 0 {
					if synced, err := j.Sync(); err != nil || synced < end || j.Synced() < end {
						t.Errorf("synced %d, end %d: %v", synced, end, err)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			if err := errors.Join(j.Prepare(), j.Release(0)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	mustSync(t, j)
	_, frames := mustOpen(t, testOptions(fs.CrashClone(vfs.CrashCloneCfg{})))
	require.Len(t, frames, writers*each)
	next := [writers]uint64{}
	for _, f := range frames {
		require.Equal(t, next[f.group], f.replica)
		next[f.group]++
	}
}

func TestOptions(t *testing.T) {
	none := func(Frame) error { return nil }
	for want, change := range map[string]func(o *Options){
		"Options.FS":           func(o *Options) { o.FS = nil },
		"Options.Rand":         func(o *Options) { o.Rand = nil },
		"Options.SegmentBytes": func(o *Options) { o.SegmentBytes = minSegmentBytes + 1 },
	} {
		o := testOptions(vfs.NewMem())
		change(&o)
		_, err := Open(o, none)
		require.ErrorContains(t, err, want)
	}
	sum, err := Scan(Options{FS: vfs.NewMem(), Dir: "/"}, none)
	require.NoError(t, err)
	require.Zero(t, sum)
}
