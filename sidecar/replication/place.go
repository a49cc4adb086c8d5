package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// Large content is written once (DESIGN 6, docs/decisions/0009): into a slot of the arena, which the journal's frame names. What makes that safe:
//  1. The blocks are fresh: nothing durable refers to them, whatever becomes of the record.
//  2. Disk.sync syncs the arena before the journal, and the frame counts as synced only then (Journal.SyncTo).
//  3. Recovery reads the content of frames that no witness covers, and ends the log at the first that is not what was written (arenas).
//  4. So nobody may change that content before its frame has a durable witness: guard makes one, where the usual commits have not.

// write seals a record and writes its payload frame, and before it the content that goes into the arena.
func (g *Group) write(r *record.Record) (item, error) {
	size := r.EncodedSize()
	meta, err := r.AppendMeta(make([]byte, 0, size-r.DataBytes()), g.cfg.Keys.Sealer())
	if err != nil {
		return item{}, fmt.Errorf("seal record %v: %w", r.Name, err)
	}
	it := item{rec: r, meta: meta, encoded: size}
	err = g.writePayload(&it)
	if g.peers == nil {
		it.meta = nil // nobody asks for it again
	}
	return it, err
}

// whole reads what a record has in the arena alone. g.mu is held.
func (g *Group) whole(it *item) error {
	whole := *it.rec
	whole.Ops = slices.Clone(it.rec.Ops)
	for i := range whole.Ops {
		if o := &whole.Ops[i]; o.Kind == record.WriteBlocks && o.Data == nil {
			data, err := g.placedContent(it, i)
			if err != nil {
				return err
			}
			o.Data = data
		}
	}
	more := int64(whole.EncodedSize() - it.rec.EncodedSize())
	if it.encoded > 0 {
		it.encoded += int(more)
	}
	if g.peers.table[it.rec.Name] == it {
		g.peers.bytes += more
	}
	if it.own {
		g.unaccepted += more
		g.unapplied += more
	}
	it.rec, it.placed = &whole, nil
	return nil
}

// lacks tells whether a record has content in the arena alone.
func (it *item) lacks() bool {
	return slices.ContainsFunc(it.rec.Ops, func(o record.BlockOp) bool { return o.Kind == record.WriteBlocks && o.Data == nil })
}

// writePayload writes the frame of a record that is sealed.
func (g *Group) writePayload(it *item) error {
	b, _ := g.bodies.Get().(*bodies)
	if b == nil {
		b = &bodies{}
	}
	defer func() { b.end(); g.bodies.Put(b) }()
	piece, err := g.payload(it, b)
	if err != nil {
		return err
	}
	key := g.key()
	end, err := g.disk.journal.Append(piece.Kind, uint64(key.group), uint64(key.replica), piece.Parts...)
	if errors.Is(err, journal.ErrNoSpace) {
		return noSpace(err)
	}
	if len(it.placed) > 0 {
		g.note(it.rec, it.placed, end)
	}
	return err
}

// payload is the frame of a record, made in b, after its large new content is in the arena.
func (g *Group) payload(it *item, b *bodies) (piece journal.Piece, err error) {
	if it.lacks() { // a frame without it would be none
		if err := g.whole(it); err != nil {
			return piece, err
		}
	}
	r := it.rec
	placed, frames, err := g.place(r)
	if err != nil {
		return piece, err
	}
	it.placed = placed
	p := journal.Payload{Epoch: uint64(r.Name.Epoch), Incarnation: uint32(r.Name.Incarnation), Seq: uint64(r.Name.Seq), Placed: frames}
	head, from := len(b.heads), len(b.parts)
	b.heads = p.AppendHeader(b.heads)
	b.parts = append(b.parts, b.heads[head:len(b.heads):len(b.heads)], it.meta)
	for i := range r.Ops {
		if len(r.Ops[i].Data) > 0 && !isPlaced(placed, i) {
			b.parts = append(b.parts, r.Ops[i].Data)
		}
	}
	return journal.Piece{Kind: p.Kind(), Parts: b.parts[from:len(b.parts):len(b.parts)]}, nil
}

func isPlaced(placed []store.Placement, op int) bool {
	for _, p := range placed {
		if p.Op == op {
			return true
		}
	}
	return false
}

// note remembers content that must not change before the frame that names it has a witness.
func (g *Group) note(r *record.Record, placed []store.Placement, end journal.LSN) {
	g.guards.Lock()
	defer g.guards.Unlock()
	for _, p := range placed {
		g.placed[r.Ops[p.Op].Blob] = end
	}
}

// place puts large new content into the arena.
func (g *Group) place(r *record.Record) (placed []store.Placement, frames []journal.Placement, err error) {
	if g.hollow.Load() {
		return nil, nil, nil
	}
	for i := range r.Ops {
		o := &r.Ops[i]
		if most := g.disk.cfg.PlaceBytes; !o.Fresh || most < 0 || int64(len(o.Data)) < most {
			continue
		}
		slot, err := g.store.Place(o)
		// Not before Place: a sync that comes between would take the mark and not the content. And not after the frame.
		g.unsynced.Store(true)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return nil, nil, noSpace(err)
		}
		if err != nil {
			return nil, nil, stoppedError{err}
		}
		placed = append(placed, store.Placement{Op: i, Slot: slot})
		frames = append(frames, journal.Placement{Slot: slot, First: o.First, Count: o.Count, Op: uint32(i), Sum: sumOf(o.Seals)})
	}
	return placed, frames, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf is the checksum of the checksums of blocks.
func sumOf(seals []record.Seal) uint32 {
	sum := uint32(0)
	for i := range seals {
		sum = addSum(sum, seals[i].CRC)
	}
	return sum
}

func addSum(sum, crc uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], crc)
	return crc32.Update(sum, castagnoli, b[:])
}

// syncPlaced makes content durable that was placed before the call. Who comes while another syncs waits for it.
func (g *Group) syncPlaced() error {
	g.placing.Lock()
	defer g.placing.Unlock()
	if !g.unsynced.Swap(false) {
		return nil
	}
	if err := g.store.SyncPlaced(); err != nil {
		g.fail(err)
		return err
	}
	return nil
}

// guard returns when records may change what the arena holds: recovery would take content that was placed, and changed since, for never
// written, unless a durable witness says that its frame was synced. The frames of a few commits later are that witness; where a record
// comes sooner, or something else is about to change the arena (records nil), guard writes one.
func (g *Group) guard(records []item) error {
	witness := g.disk.journal.Witness()
	g.guards.Lock()
	for blob, end := range g.placed {
		if end <= witness {
			delete(g.placed, blob)
		}
	}
	due := records == nil && len(g.placed) > 0
	for i := range records {
		if records[i].rec == nil {
			continue
		}
		for k := range records[i].rec.Ops {
			blob := records[i].rec.Ops[k].Blob
			_, young := g.placed[blob]
			if g.peers != nil { // whoever lacks the record that placed it gets a copy of the state then, which must be known to have it
				young = young || g.peers.placedAt[blob] > g.peers.durableCommit
			}
			due = due || young && !isPlaced(records[i].placed, k)
		}
	}
	g.guards.Unlock()
	if !due {
		return nil
	}
	return g.testify()
}

// testify makes a durable witness for everything that is synced now.
func (g *Group) testify() error {
	for {
		g.mu.Lock()
		stop := g.closing || g.failed != nil
		commit, err := g.appendHardLocked()
		g.mu.Unlock()
		if errors.Is(err, journal.ErrNoSpace) && !stop {
			time.Sleep(testifyPause) // no event tells of space on the disk
			continue
		}
		if err != nil {
			return err
		}
		if _, err = g.disk.sync(); err == nil && g.peers != nil {
			g.committed(commit)
		}
		return err
	}
}

const testifyPause = 20 * time.Millisecond

// arenas reads the content that frames name, for journal.Open and Scan: without keys, and before the stores are open.
type arenas struct {
	fs    disk.FS
	path  func(diskdir.ID) string // of a replica's arena
	again func()
}

// Again forgets what was visited.
func (a *arenas) Again() { a.again() }

// Verify implements journal.Arena. A replica that is not there any more needs nothing.
func (a *arenas) Verify(_, replica uint64, placed []journal.Placement) (bool, error) {
	f, err := a.fs.Open(a.path(diskdir.ID(replica)))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	good := true
	for _, p := range placed {
		var ok bool
		if _, ok, err = readPlaced(f, p); err != nil || !ok {
			good = false
			break
		}
	}
	return good, errors.Join(err, f.Close())
}

// readPlaced reads content and tells whether it is what was written.
func readPlaced(f disk.File, p journal.Placement) ([]byte, bool, error) {
	b := make([]byte, int(p.Count)*record.BlockSize)
	n, err := f.ReadAt(b, placedOffset(p))
	if n < len(b) && !errors.Is(err, io.EOF) {
		return nil, false, fmt.Errorf("read arena slot %d: %w", p.Slot, err)
	}
	sum := uint32(0)
	for i := 0; i < n; i += record.BlockSize {
		sum = addSum(sum, record.Checksum(b[i:min(n, i+record.BlockSize)]))
	}
	return b, n == len(b) && sum == p.Sum, nil
}

func placedOffset(p journal.Placement) int64 {
	return int64(p.Slot)*record.ChunkSize + int64(p.First)*record.BlockSize
}

// Harden implements journal.Arena: it reads from the disk what a sync has put there, past the page cache, which may hold what a sync that
// failed has not written. Where the disk lacks it, it is written anew: into punched blocks, for the reason that store's arena gives.
func (a *arenas) Harden(_, replica uint64, placed []journal.Placement) (err error) {
	path := a.path(diskdir.ID(replica))
	if _, err := a.fs.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f, err := a.fs.OpenReadWrite(path, disk.Category)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, p := range placed {
		b, good, err := readPlaced(f, p)
		if err == nil && !good {
			err = fmt.Errorf("arena slot %d changed while it was read", p.Slot)
		}
		if err == nil {
			err = hardenPlaced(f, p, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func hardenPlaced(f disk.File, p journal.Placement, b []byte) error {
	at, n := placedOffset(p), int64(len(b))
	for try := 0; ; try++ {
		if err := f.SyncData(); err != nil {
			return err
		}
		if err := disk.DropCache(f, at, n); err != nil {
			return err
		}
		if _, good, err := readPlaced(f, p); err != nil || good {
			return err
		}
		if try == 2 {
			return fmt.Errorf("arena slot %d does not keep what is written", p.Slot)
		}
		if err := disk.PunchHole(f, at, n); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
}
