package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/telemetry"
)

var (
	seeds = flag.Int("seeds", 2, "random histories of each test")
	seed  = flag.Uint64("seed", 0, "run this history alone")
)

// eachSeed runs a test for random seeds, and prints them.
func eachSeed(t *testing.T, test func(t *testing.T, rng *rand.Rand)) {
	for i := range *seeds {
		s := uint64(i + 1)
		if *seed != 0 {
			s = *seed
		}
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) { test(t, rand.New(rand.NewPCG(s, 21))) })
		if *seed != 0 {
			return
		}
	}
}

// replica is a store on a disk that can be crashed, with what a superblock says of it. Its journal is the volume's list of records.
type replica struct {
	t     testing.TB
	fs    *faultfs.FS
	keys  *seal.Keys
	store *store.Store
}

const (
	serving    = 'S'
	installing = 'I'
)

func newReplica(t testing.TB, rng *rand.Rand, key []byte) *replica {
	fs := faultfs.New(rand.New(rand.NewPCG(rng.Uint64(), 1)))
	require.NoError(t, fs.MkdirAll("r", 0o755))
	require.NoError(t, disk.SyncDir(fs, "/"))
	r := &replica{t: t, fs: fs, keys: newKeys(t, key)}
	r.save(serving, store.Checkpoint{})
	return r
}

func newKeys(t testing.TB, key []byte) *seal.Keys {
	if key == nil {
		return nil
	}
	k, err := seal.New(key, "tenant")
	require.NoError(t, err)
	return k
}

// save writes the superblock.
func (r *replica) save(state byte, at store.Checkpoint) {
	f, err := r.fs.Create("r/super.new", disk.Category)
	require.NoError(r.t, err)
	b := at.Acceptance.Append(binary.LittleEndian.AppendUint64([]byte{state}, uint64(at.Index)))
	_, err = f.Write(b)
	require.NoError(r.t, err)
	require.NoError(r.t, f.Sync())
	require.NoError(r.t, f.Close())
	require.NoError(r.t, r.fs.Rename("r/super.new", "r/super"))
	require.NoError(r.t, disk.SyncDir(r.fs, "r"))
}

func (r *replica) super() (state byte, at store.Checkpoint) {
	f, err := r.fs.Open("r/super")
	require.NoError(r.t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(r.t, err)
	at.Index = record.Index(binary.LittleEndian.Uint64(b[1:]))
	at.Acceptance, err = record.DecodeAcceptance(b[9:])
	require.NoError(r.t, err)
	return b[0], at
}

func (r *replica) config(at store.Checkpoint) store.Config {
	return store.Config{FS: r.fs, Dir: "r", Checkpoint: at, Keys: r.keys, Rand: &lockedReader{r: seeded{rand.New(rand.NewPCG(7, 7))}}, BlobCache: 4,
		MemTableBytes: 16 << 10, Logger: slog.New(slog.DiscardHandler)}
}

type seeded struct{ r *rand.Rand }

// lockedReader may be used by Pebble's goroutines at once.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

func (s seeded) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s.r.Uint32())
	}
	return len(b), nil
}

// open opens the store and replays the log up to an index.
func (r *replica) open(v *volume, upTo record.Index) {
	state, at := r.super()
	require.EqualValues(r.t, serving, state)
	var err error
	r.store, err = store.Open(r.config(at))
	require.NoError(r.t, err)
	r.apply(v, upTo)
	at, err = r.store.EndReplay()
	require.NoError(r.t, err)
	r.save(serving, at)
	require.NoError(r.t, r.store.Reclaim(at.Index, false))
}

// apply gives the store the log up to an index.
func (r *replica) apply(v *volume, upTo record.Index) {
	var entries []store.Entry
	for i := r.store.Position().Index + 1; i <= upTo; i++ {
		entries = append(entries, store.Entry{Index: i, Record: v.log.at(i)})
	}
	require.NoError(r.t, r.store.Apply(entries))
}

func (r *replica) checkpoint() {
	at, err := r.store.Checkpoint()
	require.NoError(r.t, err)
	r.save(serving, at)
	require.NoError(r.t, r.store.Reclaim(at.Index, false))
}

// install brings the replica, whose store is closed, to the state of another one.
func (r *replica) install(from *replica) error {
	snap, err := from.store.Snapshot()
	require.NoError(r.t, err)
	defer snap.Close()
	var stream bytes.Buffer
	require.NoError(r.t, snap.Send(context.Background(), &stream))
	in, err := store.ReadSnapshot(&stream)
	require.NoError(r.t, err)
	require.Equal(r.t, snap.Position(), in.Position())
	_, at := r.super()
	r.save(installing, at)
	if err := store.Install(r.config(at), in.Position(), in.Next); err != nil {
		return err
	}
	r.save(serving, in.Position())
	return nil
}

// fill asks a peer for one chunk.
func (r *replica) fill(w store.Want, from *replica) (store.Filled, error) {
	want, err := store.DecodeWant(w.Append(nil))
	require.NoError(r.t, err)
	c, err := from.store.Export(want)
	if err != nil {
		return store.Filled{}, err
	}
	c, err = store.DecodeContent(c.Append(nil))
	require.NoError(r.t, err)
	return r.store.Fill(c)
}

// complete fills all that is absent from a peer.
func (r *replica) complete(from *replica) {
	for after, wants := store.Cursor(nil), []store.Want{{}}; len(wants) > 0; {
		var err error
		wants, after, err = r.store.Missing(context.Background(), after, 3)
		require.NoError(r.t, err)
		for _, w := range wants {
			f, err := r.fill(w, from)
			require.NoError(r.t, err)
			require.Zero(r.t, f.Newer)
		}
		if after == nil {
			break
		}
	}
	require.NoError(r.t, r.store.Verify(context.Background(), 0, func(w store.Want) error { return fmt.Errorf("bad: %+v", w) }))
	r.checkpoint()
	r.invariants()
	p, err := r.store.Progress(context.Background())
	require.NoError(r.t, err)
	require.Zero(r.t, p.AbsentBytes)
	require.True(r.t, r.store.Complete())
	r.checkpoint()
	require.Equal(r.t, from.digest(), r.digest())
	r.scrub(0)
}

func (r *replica) digest() store.Digest {
	d, err := r.store.Digest(context.Background())
	require.NoError(r.t, err)
	return d
}

// scrub requires so many bad blocks.
func (r *replica) scrub(want int) (found []store.Want) {
	blocks := 0
	next, err := r.store.Scrub(context.Background(), nil, 0, func(w store.Want) error {
		found = append(found, w)
		blocks += int(w.Bytes() / record.BlockSize)
		return nil
	})
	require.NoError(r.t, err)
	require.Nil(r.t, next)
	require.Equal(r.t, want, blocks, "bad blocks")
	return found
}

// requirePart requires that what is here is what another replica at the same index has.
func (r *replica) requirePart(of *replica) (absent int) {
	require.Equal(r.t, of.store.Position(), r.store.Position())
	a, b := make([]byte, record.BlockSize), make([]byte, record.BlockSize)
	for _, w := range of.all() {
		for i := range uint32(record.ChunkBlocks) {
			if !w.Blocks.Has(i) {
				continue
			}
			e, err := r.store.Locate(w.Blob, i, 1)
			var not *store.AbsentError
			if errors.As(err, &not) {
				absent++
				continue
			}
			require.NoError(r.t, err)
			f, err := of.store.Locate(w.Blob, i, 1)
			require.NoError(r.t, err)
			require.Equal(r.t, f.Seals, e.Seals)
			require.NoError(r.t, r.store.Read(e, a))
			require.NoError(r.t, of.store.Read(f, b))
			require.True(r.t, bytes.Equal(a, b))
		}
	}
	return absent
}

// invariants checks what the replica says of itself, after a checkpoint.
func (r *replica) invariants() {
	rows, slots := map[record.BlobID]store.Want{}, map[uint32]bool{}
	for _, w := range r.all() {
		rows[w.Blob] = w
	}
	here := map[record.BlobID]meta.Bitmap{}
	require.NoError(r.t, r.store.Scan([]byte{meta.LocalPrefix}, []byte{0xff}, func(key, value []byte) error {
		l, err := store.DecodeLocal(key, value)
		require.NoError(r.t, err)
		switch {
		case l.Residency != nil:
			w, ok := rows[l.Residency.Blob]
			require.True(r.t, ok, "no chunk has blob %d", l.Residency.Blob)
			require.Equal(r.t, w.Last, l.Residency.Last)
			require.False(r.t, slots[l.Residency.Slot], "a slot is used twice")
			slots[l.Residency.Slot] = true
			here[w.Blob] = l.Residency.Here
			for i := range uint32(record.ChunkBlocks) {
				require.False(r.t, l.Residency.Here.Has(i) && !w.Blocks.Has(i), "blob %d block %d is here and a hole", w.Blob, i)
			}
		case l.Seals != nil:
			m := here[l.Seals.Blob]
			for i := range l.Seals.Seals {
				block := l.Seals.First + uint32(i)
				require.Equal(r.t, m.Has(block), !l.Seals.Seals[i].IsZero(), "blob %d block %d", l.Seals.Blob, block)
			}
		}
		return nil
	}))
}

// all are the chunks of the volume.
func (r *replica) all() (wants []store.Want) {
	snap, err := r.store.Snapshot()
	require.NoError(r.t, err)
	require.NoError(r.t, snap.Each(func(key, value []byte) error {
		if k, err := meta.ParseKey(key); err != nil || k.Kind != meta.KeyChunk {
			return nil //nolint:nilerr // the table of answers
		}
		k, _ := meta.ParseKey(key)
		ch, err := meta.DecodeChunk(value)
		wants = append(wants, store.Want{Ino: k.Ino, Chunk: k.Number, Blob: ch.Blob, Last: ch.Last, Blocks: ch.Blocks})
		return err
	}))
	require.NoError(r.t, snap.Close())
	return wants
}

// log is the volume's log: every record is accepted.
type log struct {
	mu      sync.Mutex
	records []*record.Record
	told    int // of these the file system has been told
	applied func([]*record.Record)
}

func (l *log) Append(r *record.Record, _ telemetry.SpanRef) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	return nil
}

func (l *log) OnApplied(f func([]*record.Record)) { l.applied = f }
func (*log) Admit() error                         { return nil }
func (*log) Room(int64) error                     { return nil }

func (*log) Wait(context.Context, record.Seq) (ref telemetry.SpanRef, err error) { return ref, nil }

func (l *log) at(i record.Index) *record.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[i-1]
}

func (l *log) end() record.Index {
	l.mu.Lock()
	defer l.mu.Unlock()
	return record.Index(len(l.records))
}

// volume is a file system, the log that its owner writes, and a model of its files.
type volume struct {
	t     testing.TB
	rng   *rand.Rand
	log   *log
	key   []byte
	epoch record.Epoch
	fs    *cachefs.FS
	owner *replica
	files map[meta.Ino][]byte
	names map[meta.Ino]string
	inos  []meta.Ino
	next  int
}

// newVolume is sealed, mostly.
func newVolume(t testing.TB, rng *rand.Rand) (*volume, *replica) {
	if rng.IntN(3) == 0 {
		return newVolumeWith(t, rng, nil)
	}
	return newSealed(t, rng)
}

func newSealed(t testing.TB, rng *rand.Rand) (*volume, *replica) {
	key := make([]byte, seal.KeySize)
	_, _ = seeded{rng}.Read(key)
	return newVolumeWith(t, rng, key)
}

func newVolumeWith(t testing.TB, rng *rand.Rand, key []byte) (*volume, *replica) {
	v := &volume{t: t, rng: rng, log: &log{}, key: key, files: map[meta.Ino][]byte{}, names: map[meta.Ino]string{}}
	r := newReplica(t, rng, v.key)
	r.open(v, 0)
	v.own(r, nil, true)
	return v, r
}

// own opens the next epoch, with the file system on a replica.
func (v *volume) own(r *replica, source cachefs.Source, format bool) {
	v.epoch++
	name := record.Name{Epoch: v.epoch, Incarnation: record.Incarnation(v.epoch) + 10}
	salt := make([]byte, 8+seal.SaltSize)
	meta.PutEpoch(salt, v.epoch)
	_, _ = seeded{v.rng}.Read(salt[8:])
	require.NoError(v.t, v.log.Append(&record.Record{Header: record.Header{Kind: record.Owner, Name: name},
		Muts: []record.Mutation{{Key: meta.SaltKey(uint32(name.Incarnation)), Value: salt}}}, telemetry.SpanRef{}))
	v.owner = r
	v.log.applied = nil
	v.pump()
	var err error
	v.fs, err = cachefs.Open(v.t.Context(), cachefs.Config{Log: v.log, State: r.store, Source: source, Keys: r.keys, Epoch: name.Epoch,
		Incarnation: name.Incarnation, Session: uint64(v.epoch), NewSession: true, Size: 1 << 40, Now: func() time.Time { return time.Unix(1, 0) },
		Logger: slog.New(slog.DiscardHandler)}, format)
	require.NoError(v.t, err)
	v.pump()
}

// pump applies the log to the owner's replica.
func (v *volume) pump() {
	end := v.log.end()
	v.owner.apply(v, end)
	var told []*record.Record
	for i := record.Index(v.log.told) + 1; i <= end; i++ {
		told = append(told, v.log.at(i))
	}
	v.log.told = int(end)
	if v.log.applied != nil {
		v.log.applied(told)
	}
}

func (v *volume) caller() *cachefs.Caller {
	v.next++
	return &cachefs.Caller{Unique: uint64(v.next)}
}

// step is a random change.
func (v *volume) step() {
	rng := v.rng
	if len(v.inos) == 0 || rng.IntN(12) == 0 {
		v.create()
	}
	ino := v.inos[rng.IntN(len(v.inos))]
	data := v.files[ino]
	off, n := rng.IntN(1500<<10), 1+rng.IntN(30<<10)
	switch rng.IntN(12) {
	case 0, 1, 2, 3, 4:
		v.write(ino, off, n)
	case 5:
		v.write(ino, rng.IntN(2)<<20, 1<<20)
	case 6:
		v.write(ino, off&^4095, 4096*(1+rng.IntN(20)))
	case 7:
		v.truncate(ino, rng.IntN(len(data)+1))
	case 8, 9:
		v.punch(ino, off, n)
	case 10:
		v.copy(ino, v.inos[rng.IntN(len(v.inos))])
	case 11:
		if rng.IntN(3) == 0 {
			v.unlink(ino)
		}
	}
	if rng.IntN(3) == 0 {
		v.pump()
	}
}

func (v *volume) create() {
	name := fmt.Sprint("f", v.next)
	a, err := v.fs.Create(v.caller(), meta.Root, name, cachefs.Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(v.t, err)
	v.fs.Forget(a.Ino, 1)
	v.files[a.Ino], v.names[a.Ino] = nil, name
	v.inos = append(v.inos, a.Ino)
}

func (v *volume) unlink(ino meta.Ino) {
	_, err := v.fs.Lookup(meta.Root, v.names[ino])
	require.NoError(v.t, err)
	require.NoError(v.t, v.fs.Unlink(v.caller(), meta.Root, v.names[ino]))
	v.fs.Forget(ino, 1)
	require.Eventually(v.t, func() bool { // it is removed in the background
		_, err := v.fs.Attr(ino)
		return errors.Is(err, syscall.ESTALE)
	}, time.Minute, 50*time.Microsecond)
	delete(v.files, ino)
	for i := range v.inos {
		if v.inos[i] == ino {
			v.inos = append(v.inos[:i:i], v.inos[i+1:]...)
			return
		}
	}
}

// grow makes the model of a file so long.
func (v *volume) grow(ino meta.Ino, size int) []byte {
	if b := v.files[ino]; len(b) < size {
		v.files[ino] = append(b, make([]byte, size-len(b))...)
	}
	return v.files[ino]
}

func (v *volume) write(ino meta.Ino, off, n int) {
	data := make([]byte, n)
	_, _ = seeded{rand.New(rand.NewPCG(v.rng.Uint64(), 5))}.Read(data[:min(n, 64)])
	for i := 64; i < n; i++ {
		data[i] = data[i-64] + byte(i>>6)
	}
	got, err := v.fs.Write(v.caller(), ino, uint64(off), data, false)
	require.NoError(v.t, err)
	require.Equal(v.t, n, got)
	copy(v.grow(ino, off+n)[off:], data)
}

func (v *volume) truncate(ino meta.Ino, to int) {
	size := uint64(to)
	_, err := v.fs.SetAttr(v.caller(), ino, cachefs.SetAttr{Size: &size})
	require.NoError(v.t, err)
	v.files[ino] = v.files[ino][:to:to]
}

func (v *volume) punch(ino meta.Ino, off, n int) {
	require.NoError(v.t, v.fs.Fallocate(v.caller(), ino, cachefs.FallocPunchHole|cachefs.FallocKeepSize, uint64(off), uint64(n)))
	if b := v.files[ino]; off < len(b) {
		clear(b[off:min(off+n, len(b))])
	}
}

func (v *volume) copy(from, to meta.Ino) {
	if from == to || len(v.files[from]) == 0 {
		return
	}
	off, at := v.rng.IntN(len(v.files[from])), v.rng.IntN(1<<20)
	n, err := v.fs.CopyRange(v.caller(), from, uint64(off), to, uint64(at), 50000)
	require.NoError(v.t, err)
	copy(v.grow(to, at+n)[at:], v.files[from][off:off+n])
}

// check compares the file system with the model.
func (v *volume) check() {
	for ino, want := range v.files {
		v.checkFile(ino, want)
	}
}

func (v *volume) checkFile(ino meta.Ino, want []byte) {
	got := make([]byte, len(want)+4096)
	for n := 0; n < len(got); {
		part, err := v.fs.Read(&cachefs.Caller{}, ino, uint64(n), got[n:min(len(got), n+100_000)])
		require.NoError(v.t, err)
		if n += part; part == 0 {
			got = got[:n]
		}
	}
	require.True(v.t, bytes.Equal(want, got), "inode %d", ino)
}

func (v *volume) steps(n int) {
	for range n {
		v.step()
	}
}
