package check_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/check"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

var flips = flag.Int("flips", 12, "bits to flip in each disk, of each kind of file")

// must says what a check has to say of a flipped bit.
type must int

const (
	mayFind must = iota // rot in the last batch, or of what nobody reads
	mustFind
	mustNotFind
)

// specimen is a disk that is as it should be, and what its bytes are.
type specimen struct {
	fs      *vfs.MemFS
	h       *replicationtest.History
	clean   bool                // closed, not crashed
	files   map[string][]string // by kind
	frames  []journal.Frame     // without bodies
	sum     journal.Summary
	segment int64
	inUse   map[int64]bool // pages of the arena
}

// makeSpecimen runs a history and closes it, or cuts its power.
func makeSpecimen(t testing.TB, rng *rand.Rand, clean bool) *specimen {
	h := replicationtest.NewMemHistory(t, rng)
	for range 3 {
		for range 40 + rng.IntN(40) {
			h.Step()
		}
		h.CrashAndCheck()
	}
	s := &specimen{h: h, clean: clean, files: map[string][]string{}}
	if clean {
		h.Stop()
		s.fs = wreck(t, h, 100)
	} else {
		for range 20 {
			h.Step()
		}
		s.fs = wreck(t, h, 50)
		h.Stop()
	}
	s.look(t)
	requireClean(t, s.fs, h.Root())
	return s
}

// copy is the same specimen on a disk of its own, to be changed.
func (s *specimen) copy() *specimen {
	c := *s
	c.fs = s.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	return &c
}

func (s *specimen) look(t testing.TB) {
	used := live(t, s.fs, s.h)
	for path, print := range tree(t, s.fs, s.h.Root()) {
		name := filepath.Base(path)
		kind := ""
		switch {
		case strings.HasPrefix(print, "[") || strings.HasPrefix(print, "0 bytes"):
		case name == "superblock" || name == "arena":
			kind = name
		case strings.HasSuffix(name, ".seg") || strings.HasSuffix(name, ".free"):
			kind = "journal"
		case used[path] && strings.HasSuffix(name, ".sst"):
			kind = "sst"
		case used[path]:
			kind = "manifest"
		default:
			kind = "other"
		}
		if kind != "" {
			s.files[kind] = append(s.files[kind], path)
		}
	}
	super, err := diskdir.InspectSuper(s.fs, s.h.DiskDir())
	require.NoError(t, err)
	info, err := super.Disk()
	require.NoError(t, err)
	id, err := info.Identity()
	require.NoError(t, err)
	s.segment = info.SegmentBytes
	arena := replication.NewLogs().Arena(s.fs, s.h.DiskDir(), func() { s.frames = nil })
	s.sum, err = journal.Scan(journal.Options{FS: s.fs, Dir: filepath.Join(s.h.DiskDir(), "journal"), DiskID: id, SegmentBytes: s.segment, Arena: arena},
		func(f journal.Frame) error {
			f.End = f.LSN + 64 + journal.LSN(len(f.Body))
			f.Body = nil
			s.frames = append(s.frames, f)
			return nil
		})
	require.NoError(t, err)
	s.inUse = map[int64]bool{}
	r, err := check.Run(context.Background(), check.Config{FS: s.fs, Dir: s.h.Root(), KeyDir: "keys", OnBlock: func(offset int64) { s.inUse[offset] = true }})
	require.NoError(t, err)
	require.Empty(t, r.Findings)
}

// expect says what must be found when a byte is another.
func (s *specimen) expect(t testing.TB, kind, path string, off int64) must {
	switch kind {
	case "superblock":
		page := off % 4096
		b := read(t, s.fs, path)[off-page:]
		if page < 32+int64(b[20])+int64(b[21])<<8 {
			return mustFind
		}
		return mustNotFind
	case "journal":
		return s.expectJournal(path, off)
	case "sst":
		if s.clean {
			return mustFind
		}
	case "arena":
		switch {
		case !s.inUse[off/record.BlockSize*record.BlockSize]:
			return mustNotFind
		case s.clean: // else the log may write the block again
			return mustFind
		}
	}
	return mayFind
}

func (s *specimen) expectJournal(path string, off int64) must {
	seq, ok := segmentOf(path)
	if !ok {
		return mustNotFind
	}
	at := journal.LSN(seq*s.segment + off)
	first := journal.LSN(seq*s.segment + 4096)
	if off < 4096 || off >= s.segment-4096 {
		if s.sum.SyncedEnd > first {
			return mustFind
		}
		return mayFind
	}
	for _, f := range s.frames {
		if at >= f.LSN && at < f.End {
			if f.End <= s.sum.SyncedEnd {
				return mustFind
			}
			return mayFind
		}
	}
	if at < s.sum.End {
		return mustNotFind // between frames
	}
	return mayFind // behind the end: most often zeros, but for what an earlier life left there
}

func segmentOf(path string) (seq int64, ok bool) {
	name, ok := strings.CutSuffix(filepath.Base(path), ".seg")
	for _, c := range name {
		seq = seq<<4 | int64(strings.IndexRune("0123456789abcdef", c))
	}
	return seq, ok
}

func flip(t testing.TB, fs disk.FS, path string, off int64, bit byte) {
	f, err := fs.OpenReadWrite(path, disk.Category)
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	require.NoError(t, err)
	b[0] ^= bit
	_, err = f.WriteAt(b, off)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestFlips: a bit that flips in what counts is found; one that flips in what does not is not reported, but for places where nobody
// can know.
func TestFlips(t *testing.T) {
	eachSeed(t, *seeds, func(t *testing.T, rng *rand.Rand) {
		s := makeSpecimen(t, rng, rng.IntN(3) > 0)
		for _, kind := range []string{"superblock", "journal", "sst", "manifest", "arena", "other"} {
			var tried, found, silent, had int
			for range *flips {
				if len(s.files[kind]) == 0 {
					break
				}
				path := s.files[kind][rng.IntN(len(s.files[kind]))]
				off := s.offset(t, rng, kind, path)
				want := s.expect(t, kind, path, off)
				bit := byte(1) << rng.IntN(8)
				flip(t, s.fs, path, off, bit)
				r := run(t, s.fs, s.h.Root())
				flip(t, s.fs, path, off, bit)
				for _, f := range r.Findings {
					require.NotContains(t, f.Means, "panic", "%s offset %d", path, off)
				}
				tried++
				switch {
				case r.Bad():
					found++
				default:
					silent++
				}
				if kind == "manifest" && !r.Bad() {
					require.Contains(t, fmt.Sprint(r.Notes), "the end is torn", "%s: bit %#x at %d", path, bit, off)
				}
				if want == mustFind {
					had++
					require.True(t, r.Bad(), "%s: bit %#x at %d is not found (closed: %v, end %d, synced %d)", path, bit, off, s.clean, s.sum.End, s.sum.SyncedEnd)
				}
				if want == mustNotFind {
					require.Empty(t, r.Findings, "%s: bit %#x at %d means nothing", path, bit, off)
				}
			}
			t.Logf("%-10s (closed: %v, sealed: %v): %4d flips, %4d of them where they count, %4d found, %4d silent", kind, s.clean, s.h.Key() != nil, tried, had, found, silent)
		}
	})
}

// offset picks a byte, most often one that means something.
func (s *specimen) offset(t testing.TB, rng *rand.Rand, kind, path string) int64 {
	st, err := s.fs.Stat(path)
	require.NoError(t, err)
	size := int(st.Size())
	switch {
	case kind == "superblock" && rng.IntN(4) > 0:
		return int64(rng.IntN(2)*4096 + rng.IntN(420))
	case kind == "arena" && len(s.inUse) > 0 && rng.IntN(4) > 0:
		pages := slices.Sorted(maps.Keys(s.inUse))
		at := pages[rng.IntN(len(pages))] + int64(rng.IntN(record.BlockSize))
		return min(at, int64(size)-1) // a page that the log will write may be behind the end still
	case kind == "journal" && rng.IntN(5) > 0:
		if seq, ok := segmentOf(path); ok {
			var here []journal.Frame
			for _, f := range s.frames {
				if int64(f.LSN)/s.segment == seq {
					here = append(here, f)
				}
			}
			if len(here) > 0 {
				f := here[rng.IntN(len(here))]
				return int64(f.LSN)%s.segment + int64(rng.IntN(int(f.End-f.LSN)))
			}
		}
	}
	return int64(rng.IntN(size))
}
