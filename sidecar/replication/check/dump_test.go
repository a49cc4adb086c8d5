package check_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication/check"
)

func dump(t testing.TB, s *specimen, cfg check.DumpConfig) (string, error) {
	cfg.FS, cfg.Dir, cfg.KeyDir = s.fs, s.h.Root(), "keys"
	var b bytes.Buffer
	err := check.Dump(context.Background(), cfg, &b)
	return b.String(), err
}

func lines(s, prefix string) (n int) {
	for l := range strings.Lines(s) {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

func TestDump(t *testing.T) {
	eachSeed(t, *seeds, func(t *testing.T, rng *rand.Rand) {
		s := makeSpecimen(t, rng, rng.IntN(2) == 0)
		before := tree(t, s.fs, s.h.Root())
		text, err := dump(t, s, check.DumpConfig{})
		require.NoError(t, err)
		require.Equal(t, s.sum.Frames, lines(text, "frame "))
		require.Equal(t, strings.Count(text, " payload group=")+strings.Count(text, " placed group="), lines(text, "record "))
		require.Equal(t, 4, lines(text, "superblock {"))
		require.NotRegexp(t, regexp.MustCompile(`(?m)^(frame|record).* # `), text, "everything decodes")

		text, err = dump(t, s, check.DumpConfig{Meta: true})
		require.NoError(t, err)
		require.Contains(t, text, "key inode(1) mode=40777 ")
		require.Regexp(t, regexp.MustCompile(`(?m)^local applied index=\d+ `), text)
		require.NotRegexp(t, regexp.MustCompile(`\bn\d+\b`), text, "no names that users gave")
		require.NotRegexp(t, regexp.MustCompile(`(?m)^(key|local).* # `), text, "everything decodes")
		text, err = dump(t, s, check.DumpConfig{Meta: true, Names: true})
		require.NoError(t, err)
		require.Regexp(t, regexp.MustCompile(`(?m)^key dirent\(\d+\)"n\d+" inode=`), text)

		text, err = dump(t, s, check.DumpConfig{Replica: 77})
		require.NoError(t, err)
		require.Zero(t, lines(text, "frame "))
		require.Equal(t, before, tree(t, s.fs, s.h.Root()), "a dump must not change a byte")
	})
}

// TestDumpOfDamage: everything before the damage is printed, and a line says where it is.
func TestDumpOfDamage(t *testing.T) {
	eachSeed(t, *seeds, func(t *testing.T, rng *rand.Rand) {
		s := makeSpecimen(t, rng, true)
		whole, err := dump(t, s, check.DumpConfig{Journal: true, Records: true})
		require.NoError(t, err)
		k := rng.IntN(len(s.frames) - 1)
		f := s.frames[k]
		for _, path := range s.files["journal"] {
			if seq, ok := segmentOf(path); ok && seq == int64(f.LSN)/s.segment {
				flip(t, s.fs, path, int64(f.LSN)%s.segment+70, 1)
			}
		}
		text, err := dump(t, s, check.DumpConfig{Journal: true, Records: true})
		require.Error(t, err)
		require.Equal(t, k, lines(text, "frame "))
		require.Equal(t, 1, lines(text, "# stops: "))
		require.Greater(t, lines(whole, "frame "), k)
		require.Equal(t, strings.Count(text, " payload group=")+strings.Count(text, " placed group="), lines(text, "record "))
	})
}

// TestDumpNeverPanics: whatever the bytes are, there is text and perhaps an error.
func TestDumpNeverPanics(t *testing.T) {
	eachSeed(t, *seeds, func(t *testing.T, rng *rand.Rand) {
		s := makeSpecimen(t, rng, true)
		for _, kind := range []string{"superblock", "journal", "sst", "manifest", "other"} {
			for range *flips / 5 {
				if len(s.files[kind]) == 0 {
					break
				}
				path := s.files[kind][rng.IntN(len(s.files[kind]))]
				off := s.offset(t, rng, kind, path)
				flip(t, s.fs, path, off, 1<<rng.IntN(8))
				text, _ := dump(t, s, check.DumpConfig{Superblock: true, Journal: true, Records: true, Meta: true})
				require.NotEmpty(t, text)
			}
		}
	})
}
