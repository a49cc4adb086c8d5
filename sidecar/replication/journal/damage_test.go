package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// twoSegments makes a journal of two segments with several batches in each, and returns its disk and frames.
func twoSegments(t testing.TB) (*vfs.MemFS, []seen) {
	fs := vfs.NewMem()
	j, _ := mustOpen(t, testOptions(fs))
	for i := 0; len(j.segs) < 2; i++ {
		mustAppend(t, j, strings.Repeat(fmt.Sprint(i%10), 9000))
		mustAppend(t, j, fmt.Sprint("small", i))
		if i%2 == 1 {
			mustSync(t, j)
		}
	}
	mustSync(t, j)
	for range 3 {
		mustAppend(t, j, "in the second segment")
		mustSync(t, j)
	}
	mustAppend(t, j, "in the last batch")
	mustSync(t, j)
	require.NoError(t, j.Close())
	var frames []seen
	_, err := Scan(testOptions(fs), collect(&frames))
	require.NoError(t, err)
	return fs, frames
}

func fileBytes(t testing.TB, fs *vfs.MemFS, seq uint64) []byte {
	b, err := fs.UnsafeGetFileDataBuffer(testDir + "/" + segmentName(seq))
	require.NoError(t, err)
	return b
}

// TestBitFlips flips a bit in every byte of a synced journal: damage where a later frame or header is a witness that the byte
// was synced, the end of the log elsewhere, no difference where the byte means nothing.
func TestBitFlips(t *testing.T) {
	fs, frames := twoSegments(t)
	o := testOptions(fs)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for seq := uint64(1); seq <= 2; seq++ {
		b := fileBytes(t, fs, seq)
		for off := 0; off < len(b); off++ {
			if dull(&o, frames, o.base(seq)+LSN(off)) && rng.IntN(16) > 0 {
				continue
			}
			bit := byte(1) << rng.IntN(8)
			b[off] ^= bit
			var got []seen
			_, err := Scan(o, collect(&got))
			b[off] ^= bit
			at := o.base(seq) + LSN(off)
			count, damaged := expectFlip(&o, frames, at)
			var damage *DamageError
			if errors.As(err, &damage) != (damaged != 0) || (err != nil && damage == nil) {
				t.Fatalf("flip at %d: error %v, expected damage at %d", at, err, damaged)
			}
			if damage != nil && (damage.LSN != damaged || damage.File != segmentName(seq)) {
				t.Fatalf("flip at %d: %v, expected at %d", at, damage, damaged)
			}
			if len(got) != count {
				t.Fatalf("flip at %d: %d frames, expected %d", at, len(got), count)
			}
			for i := range got {
				if got[i] != frames[i] {
					t.Fatalf("flip at %d: frame %d is %v", at, i, got[i])
				}
			}
		}
	}
}

// dull bytes are many and alike, so a sixteenth of them is enough: those that mean nothing, the inside of a header page's zeros,
// and the inside of long bodies.
func dull(o *Options, frames []seen, at LSN) bool {
	if off := at % LSN(o.SegmentBytes); off < headerPageBytes {
		return off >= 128 && off < headerPageBytes-4
	}
	for _, f := range frames {
		if f.lsn <= at && at < f.lsn+frameHeaderBytes+LSN(len(f.body)) {
			return len(f.body) > 100 && at > f.lsn+frameHeaderBytes+10 && at < f.lsn+frameHeaderBytes+LSN(len(f.body))-10
		}
	}
	return true
}

// expectFlip returns how many frames are visited, and the LSN of the damage, 0 for none.
func expectFlip(o *Options, frames []seen, at LSN) (int, LSN) {
	bad, hit := LSN(0), -1
	for i, f := range frames {
		if f.lsn <= at && at < f.lsn+frameHeaderBytes+LSN(len(f.body)) {
			bad, hit = f.lsn, i
		}
	}
	seq := uint64(at) / uint64(o.SegmentBytes)
	if at < o.firstFrame(seq) {
		bad = o.base(seq)
	}
	if bad == 0 {
		return len(frames), 0
	}
	count, witness := 0, LSN(0)
	for i, f := range frames {
		if f.lsn < bad {
			count++
		}
		// A first header that does not verify is no witness, but here its segment's frames always say more.
		if i != hit {
			witness = max(witness, f.synced)
		}
	}
	if witness > bad {
		return count, bad
	}
	return count, 0
}

// TestLostPages replaces whole pages: with zeros, with the page before, with what the file had in another place.
func TestLostPages(t *testing.T) {
	fs, frames := twoSegments(t)
	o := testOptions(fs)
	for seq := uint64(1); seq <= 2; seq++ {
		b := fileBytes(t, fs, seq)
		was := strings.Clone(string(b))
		for off := 0; off < len(b); off += headerPageBytes {
			for _, from := range []int{-1, 0, headerPageBytes, 5 * headerPageBytes} {
				page := make([]byte, headerPageBytes)
				if from >= 0 {
					copy(page, was[from:])
				}
				copy(b[off:], page)
				changed := string(b) != was
				var got []seen
				_, err := Scan(o, collect(&got))
				copy(b, was)
				for i := range got {
					require.Equal(t, frames[i], got[i])
				}
				witness := LSN(0)
				for _, f := range frames {
					if at := o.base(seq) + LSN(off); !changed || f.end <= at || f.lsn >= at+headerPageBytes {
						witness = max(witness, f.synced)
					}
				}
				lost := len(got) < len(frames) && frames[len(got)].lsn < witness
				var damage *DamageError
				require.Equal(t, lost, errors.As(err, &damage), "segment %d page at %d from %d: %v", seq, off, from, err)
			}
		}
	}
}

func TestMissingSegmentIsDamage(t *testing.T) {
	fs, _ := twoSegments(t)
	j, _ := mustOpen(t, testOptions(fs))
	require.NoError(t, j.Close())
	require.NoError(t, fs.Remove(testDir+"/"+segmentName(2)))
	_, err := Open(testOptions(fs), func(Frame) error { return nil })
	var damage *DamageError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, segmentName(2), damage.File)
	require.Contains(t, err.Error(), "the file is missing")
}

// TestBothHeadersLost: the generation is gone, but what the frames say cannot be of an earlier life.
func TestBothHeadersLost(t *testing.T) {
	fs, _ := twoSegments(t)
	b := fileBytes(t, fs, 2)
	b[3] ^= 1
	b[len(b)-1] ^= 1
	_, err := Scan(testOptions(fs), func(Frame) error { return nil })
	var damage *DamageError
	require.ErrorAs(t, err, &damage)
	require.Contains(t, err.Error(), segmentName(2))
}

// TestLowestHeader: the lowest segment's header was synced before the one below it went, so there is no torn one.
func TestLowestHeader(t *testing.T) {
	fs := vfs.NewMem()
	j, _ := mustOpen(t, testOptions(fs))
	for len(j.segs) < 2 {
		mustAppend(t, j, strings.Repeat("x", 9000))
	}
	require.NoError(t, j.Release(j.segs[0].end))
	require.Len(t, j.segs, 2, "the second header is not synced")
	mustSync(t, j)
	require.NoError(t, j.Release(j.segs[0].end))
	require.Len(t, j.segs, 1)
	start := j.Start()
	require.NoError(t, j.Close())

	j, _ = mustOpen(t, testOptions(fs))
	require.Equal(t, start, j.Start())
	require.NoError(t, j.Close())
	clear(fileBytes(t, fs, 2)[:headerPageBytes])
	_, err := Open(testOptions(fs), func(Frame) error { return nil })
	var damage *DamageError
	require.ErrorAs(t, err, &damage)
}

// TestStartStays: restarts without a frame keep where the log starts, so that its owner can tell that nothing is missing.
func TestStartStays(t *testing.T) {
	fs := vfs.NewMem()
	j, _ := mustOpen(t, testOptions(fs))
	mustAppend(t, j, "released")
	require.NoError(t, j.Close())
	j, _ = mustOpen(t, testOptions(fs))
	end := mustAppend(t, j, "last")
	mustSync(t, j)
	require.NoError(t, j.Release(end))
	start := j.Start()
	for range 5 {
		require.NoError(t, j.Close())
		j, _ = mustOpen(t, testOptions(fs))
		require.Equal(t, start, j.Start())
	}
	require.NoError(t, j.Release(j.End()))
	start = j.Start()
	for range 5 {
		require.NoError(t, j.Close())
		var frames []seen
		j, frames = mustOpen(t, testOptions(fs))
		require.Empty(t, frames)
		require.Equal(t, start, j.Start())
	}
}

func TestMismatch(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(o *Options, h *segmentHeader)
	}{
		{"disk", "disk ID is d15c", func(o *Options, _ *segmentHeader) { o.DiskID[3] = 9 }},
		{"size", "segment bytes is 65536, expected 131072", func(o *Options, _ *segmentHeader) { o.SegmentBytes *= 2 }},
		{"version", "segment version is 2, expected 1", func(_ *Options, h *segmentHeader) { h.version = 2 }},
		{"flags", "segment flags is 1, expected 0", func(_ *Options, h *segmentHeader) { h.flags = 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, _ := twoSegments(t)
			o := testOptions(fs)
			h, ok := parseSegmentHeader(fileBytes(t, fs, 2))
			require.True(t, ok)
			c.change(&o, &h)
			copy(fileBytes(t, fs, 2), h.page())
			_, err := Open(o, func(Frame) error { return nil })
			var mismatch *MismatchError
			require.ErrorAs(t, err, &mismatch)
			require.Contains(t, err.Error(), c.want)
			require.NotEmpty(t, mismatch.Fix)
		})
	}
}

// TestNewerFrame: a frame that verifies is never skipped because this version does not know it.
func TestNewerFrame(t *testing.T) {
	for what, h := range map[string]frameHeader{
		"frame version is 2":  {version: 2, kind: KindPayload},
		"frame kind is kind(": {version: 1, kind: 6},
		"frame flags is 1":    {version: 1, kind: KindPayload, flags: 1},
	} {
		fs := vfs.NewMem()
		j, _ := mustOpen(t, testOptions(fs))
		mustAppend(t, j, "known")
		h.bodyCRC = bodySeed(j.cur.generation, j.end)
		b := make([]byte, frameHeaderBytes)
		h.encode(b, j.cur.generation, j.end)
		_, err := j.cur.file.WriteAt(b, int64(j.end-j.cur.base))
		require.NoError(t, err)
		require.NoError(t, j.Close())
		_, err = Open(testOptions(fs), func(Frame) error { return nil })
		var mismatch *MismatchError
		require.ErrorAs(t, err, &mismatch)
		require.Contains(t, err.Error(), what)
	}
}
