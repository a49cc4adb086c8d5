package cachefs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/telemetry"
)

// slowLog is a log with a state in memory that applies records when it is told to, and refuses some.
type slowLog struct {
	t       *testing.T
	keys    *seal.Keys
	pending []*record.Record
	applied func([]*record.Record)
	refuse  bool // the next record
	reads   int  // of blocks

	values map[string][]byte
	blocks map[blockID]overBlock
}

var errRefused = errors.New("refused")

func (l *slowLog) Append(r *record.Record, _ telemetry.SpanRef) error {
	if l.refuse {
		l.refuse = false
		return errRefused
	}
	l.pending = append(l.pending, r)
	return nil
}
func (l *slowLog) OnApplied(applied func([]*record.Record)) { l.applied = applied }
func (l *slowLog) Admit() error                             { return nil }
func (l *slowLog) Room(int64) error                         { return nil }
func (l *slowLog) Wait(context.Context, record.Seq) (telemetry.SpanRef, error) {
	return telemetry.SpanRef{}, nil
}
func (l *slowLog) Answer(uint64, uint64) ([]byte, bool) { return nil, false }

func (l *slowLog) Get(key []byte) ([]byte, bool, error) {
	v, ok := l.values[string(key)]
	return v, ok, nil
}

func (l *slowLog) Scan(lower, upper []byte, visit func(key, value []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(l.values)) {
		if k < string(lower) || k >= string(upper) {
			continue
		}
		if err := visit([]byte(k), l.values[k]); err != nil {
			return err
		}
	}
	return nil
}

func (l *slowLog) Locate(blob record.BlobID, first, count uint32) (store.Extent, error) {
	e := store.Extent{Blob: blob, First: first}
	for b := first; b < first+count; b++ {
		have, ok := l.blocks[blockID{blob, b}]
		require.True(l.t, ok, "block %d of blob %d", b, blob)
		e.Seals = append(e.Seals, *have.seal)
	}
	return e, nil
}

func (l *slowLog) Read(e store.Extent, dst []byte) error {
	for i := range e.Seals {
		l.reads++
		b := dst[i*record.BlockSize : (i+1)*record.BlockSize]
		copy(b, l.blocks[blockID{e.Blob, e.First + uint32(i)}].data)
		if err := l.keys.OpenBlock(&e.Seals[i], b); err != nil {
			return err
		}
	}
	return nil
}

// apply applies the first n pending records.
func (l *slowLog) apply(n int) {
	for _, r := range l.pending[:n] {
		for _, m := range r.Muts {
			if l.values[string(m.Key)] = m.Value; m.Delete {
				delete(l.values, string(m.Key))
			}
		}
		for i := range r.Ops {
			l.applyOp(&r.Ops[i])
		}
	}
	done := l.pending[:n]
	l.pending = slices.Clone(l.pending[n:])
	l.applied(done)
}

func (l *slowLog) applyOp(o *record.BlockOp) {
	switch o.Kind {
	case record.WriteBlocks:
		for k := range o.Seals {
			l.blocks[blockID{o.Blob, o.First + uint32(k)}] = overBlock{o.Data[k*record.BlockSize : (k+1)*record.BlockSize], &o.Seals[k]}
		}
	case record.PunchBlocks:
		for k := range o.Count {
			delete(l.blocks, blockID{o.Blob, o.First + k})
		}
	case record.FreeBlob:
		maps.DeleteFunc(l.blocks, func(id blockID, _ overBlock) bool { return id.blob == o.Blob })
	}
}

// openSlow opens a file system on a slowLog, sealed or not.
func openSlow(t *testing.T, sealed bool) (*FS, *slowLog) {
	log := &slowLog{t: t, values: map[string][]byte{}, blocks: map[blockID]overBlock{}}
	if sealed {
		var err error
		log.keys, err = seal.New(bytes.Repeat([]byte{3}, seal.KeySize), "tenant")
		require.NoError(t, err)
		require.NoError(t, log.keys.Learn(1, bytes.Repeat([]byte{5}, seal.SaltSize)))
	}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Keys: log.keys, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true,
		Size: 1 << 30, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	t.Cleanup(fs.Close)
	return fs, log
}

const modelSize = 5 << 18

// modelFile is a file and what must be in it.
type modelFile struct {
	ino  meta.Ino
	want []byte
}

// step does something to the file, and to the model if it was done.
func (f *modelFile) step(fs *FS, r *rand.Rand, noise *rand.ChaCha8) error {
	size := uint64(len(f.want))
	off, n := r.Uint64N(modelSize), r.Uint64N([]uint64{100, 5000, 300_000}[r.IntN(3)])
	switch r.IntN(4) {
	case 0, 1:
		off = min(size, modelSize-1) // the end, as of a log
	case 2:
		off -= off % record.BlockSize
		n = record.BlockSize * (1 + r.Uint64N(record.ChunkBlocks))
	}
	n = max(min(n, modelSize-off), 1)
	switch r.IntN(10) {
	case 0:
		if err := fs.Fallocate(&Caller{}, f.ino, FallocPunchHole|FallocKeepSize, off, n); err != nil {
			return err
		}
		clear(f.want[min(off, size):min(off+n, size)])
	case 1:
		off %= []uint64{1, 2000, modelSize}[r.IntN(3)] // small files are kept in another way, until they grow
		if _, err := fs.SetAttr(&Caller{}, f.ino, SetAttr{Size: &off}); err != nil {
			return err
		}
		f.want = append(f.want, make([]byte, modelSize)...)[:off]
		clear(f.want[min(size, off):])
	default:
		data := make([]byte, n)
		_, _ = noise.Read(data)
		done, err := fs.Write(&Caller{}, f.ino, off, data, false)
		if err != nil {
			return err
		}
		f.want = append(f.want, make([]byte, max(size, off+uint64(done))-size)...)
		copy(f.want[off:], data[:done])
		clear(data) // whoever reads it now reads something else
	}
	return nil
}

func (f *modelFile) check(t *testing.T, fs *FS) {
	t.Helper()
	got := make([]byte, modelSize)
	n, err := fs.Read(&Caller{}, f.ino, 0, got)
	require.NoError(t, err)
	require.Equal(t, len(f.want), n)
	if bytes.Equal(f.want, got[:n]) {
		return
	}
	for i := range n {
		require.True(t, f.want[i] == got[i], "byte %d of %d is %d, want %d", i, n, got[i], f.want[i])
	}
}

// Files are what was written to them in pieces of any size, whatever the log has applied meanwhile, and whatever it has refused.
func TestContentIsWhatWasWritten(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		seed := rand.Uint64()
		t.Logf("sealed %v, seed %d", sealed, seed)
		r, noise := rand.New(rand.NewPCG(seed, 0)), rand.NewChaCha8([32]byte{byte(seed)})
		fs, log := openSlow(t, sealed)
		var files []*modelFile
		for _, name := range []string{"a", "b", "c"} {
			a, err := fs.Create(&Caller{}, meta.Root, name, Node{Mode: syscall.S_IFREG | 0o644})
			require.NoError(t, err)
			files = append(files, &modelFile{ino: a.Ino})
		}
		for range 700 {
			f := files[r.IntN(len(files))]
			log.refuse = r.IntN(20) == 0
			if err := f.step(fs, r, noise); err != nil {
				require.ErrorIs(t, err, errRefused)
			}
			log.refuse = false
			if r.IntN(4) == 0 {
				log.apply(r.IntN(len(log.pending) + 1))
			}
			if r.IntN(8) == 0 {
				f.check(t, fs)
			}
		}
		for _, f := range files {
			f.check(t, fs)
		}
	}
}

// Who appends in small pieces reads nothing, although every piece but the first of a block changes a block that is sealed.
func TestSmallAppendsReadNothing(t *testing.T) {
	fs, log := openSlow(t, true)
	a, err := fs.Create(&Caller{}, meta.Root, "log", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	for i := range uint64(200) {
		_, err := fs.Write(&Caller{}, a.Ino, 8192+i*100, make([]byte, 100), false)
		require.NoError(t, err)
		log.apply(len(log.pending))
	}
	require.Zero(t, log.reads)
}
