package replication

import (
	"bytes"
	"context"
	"encoding/binary"
	mrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/telemetry"
)

const (
	simFiles  = 5
	simChunks = 2
	simBlocks = 12 // of a chunk
)

// simOwner makes records as cachefs does: mutations, blocks, punches, and chunk rows that say which blocks there are.
type simOwner struct {
	l     *simLife
	name  record.Name // its newest record
	salt  []byte
	begun time.Time
	// nonces were used for the next record, which the disk had no space for.
	nonces uint16
	work   chan func()

	// Of its goroutine, and of the main one between events:
	opened, ended, busy atomic.Bool
	checked             bool
	err                 error
	counters            meta.Counters
	chunks              map[string]meta.Chunk
	tops                map[record.BlobID]uint32 // of blobs of its own that it has only written to
}

// own starts an owner on a node, with an epoch that may be somebody's already.
func (s *sim) own(l *simLife, epoch uint64) {
	s.epoch = max(s.epoch, epoch)
	s.owner = s.newOwner(l, epoch)
	s.note("node %d: owner of epoch %d begins, incarnation %d", l.n.id, epoch, s.owner.name.Incarnation)
	l.run(s.owner.run)
}

// newOwner makes an owner.
func (s *sim) newOwner(l *simLife, epoch uint64) *simOwner {
	l.owned = true
	o := &simOwner{l: l, begun: time.Now(), work: make(chan func(), 1), chunks: map[string]meta.Chunk{}, tops: map[record.BlobID]uint32{}}
	s.incarnations++
	o.name = record.Name{Epoch: record.Epoch(epoch), Incarnation: record.Incarnation(s.incarnations)}
	o.salt = make([]byte, 8+seal.SaltSize)
	binary.LittleEndian.PutUint64(o.salt, epoch)
	for i := range seal.SaltSize {
		o.salt[8+i] = byte(s.rng.Uint32())
	}
	return o
}

func (o *simOwner) run() {
	if o.err = o.open(); o.err != nil {
		o.ended.Store(true)
		return
	}
	o.opened.Store(true)
	for {
		select {
		case <-o.l.done:
			return
		case work := <-o.work:
			work()
			o.busy.Store(false)
		}
	}
}

func (o *simOwner) open() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g, s := o.l.group, o.l.s
	n, err := g.Recover(ctx)
	s.worked("records recovered", n)
	if err != nil {
		return err
	}
	r := &record.Record{Header: record.Header{Kind: record.Owner, Name: o.name}, Muts: []record.Mutation{{Key: meta.SaltKey(uint32(o.name.Incarnation)), Value: o.salt}}}
	o.tell(r, nil)
	if err := g.BeginEpoch(ctx, r); err != nil {
		return err
	}
	g.OnApplied(func([]*record.Record) {}) // from here on a file system is open
	st := g.Store()
	if st == nil {
		return errNotHere
	}
	return st.Scan([]byte{0}, []byte{meta.LocalPrefix}, func(k, v []byte) (err error) {
		switch {
		case bytes.Equal(k, meta.CountersKey()):
			o.counters, err = meta.DecodeCounters(v)
			o.counters.NextBlob = max(o.counters.NextBlob, cachefs.FirstBlob(o.name.Epoch)) // as cachefs does
		case simIsChunk(k):
			o.chunks[string(k)], err = meta.DecodeChunk(v)
		}
		return err
	})
}

func simIsChunk(key []byte) bool { return len(key) == 17 && key[0] == meta.ChunkKey(1, 1)[0] }

// tell notes a record before it is appended.
func (o *simOwner) tell(r *record.Record, blocks []simWrite) {
	s := o.l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !o.l.dead.Load() {
		o.l.part.oracle.write(r.Name, &simRecord{kind: r.Kind, muts: r.Muts, blocks: blocks})
	}
}

// do has the owner do something, if it is not in the middle of something else.
func (o *simOwner) do(work func()) {
	if o.opened.Load() && !o.ended.Load() && !o.busy.Load() && !o.l.dead.Load() && !o.l.closing.Load() && o.l.n.thaws() <= 0 {
		o.busy.Store(true)
		o.work <- work
		synctest.Wait() // one owner after the other
	}
}

// write appends a record.
func (o *simOwner) write(seed uint64) {
	s, g := o.l.s, o.l.group
	if o.err = g.Admit(); o.err != nil {
		o.ended.Store(true)
		return
	}
	c := &simChange{o: o, rng: mrand.New(mrand.NewPCG(seed, 3)), name: o.name, counters: o.counters, chunks: map[string]*meta.Chunk{}}
	c.name.Seq++
	r := c.make()
	if o.err = c.seal(r); o.err != nil {
		s.violate("node %d: seal: %v", o.l.n.id, o.err)
		return
	}
	o.tell(r, c.writes)
	s.mu.Lock()
	o.l.part.oracle.newest = nil
	s.mu.Unlock()
	o.err = g.Append(r, telemetry.SpanRef{})
	if s.plan.disks > 1 && isFull(o.err) { // its program is told
		s.worked("records without space", 1)
		s.mu.Lock()
		o.l.part.oracle.unwrite(r.Name)
		s.mu.Unlock()
		o.err = nil
		return
	}
	if o.err != nil {
		o.ended.Store(true)
		return
	}
	o.nonces = 0
	o.name, o.counters = c.name, c.counters
	for k, ch := range c.chunks {
		if ch == nil {
			delete(o.chunks, k)
		} else {
			o.chunks[k] = *ch
		}
	}
	for i := range r.Ops {
		if op := &r.Ops[i]; op.Kind != record.WriteBlocks {
			delete(o.tops, op.Blob)
		} else if top, ok := o.tops[op.Blob]; ok || c.made[op.Blob] {
			o.tops[op.Blob] = max(top, op.First+op.Count)
		}
	}
	s.worked("records", 1)
}

// sync is an fsync of everything so far, which waits in a goroutine of its own.
func (o *simOwner) sync() {
	l, s, name := o.l, o.l.s, o.name
	if name.Seq == 0 {
		return
	}
	l.run(func() {
		if _, err := l.group.Wait(context.Background(), name.Seq); err != nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !l.dead.Load() {
			s.acks = append(s.acks, simAck{uint64(name.Epoch), name.Seq, l.n.id, l.part})
		}
	})
}

// simChange is a record in the making.
type simChange struct {
	o        *simOwner
	rng      *mrand.Rand
	name     record.Name
	counters meta.Counters
	chunks   map[string]*meta.Chunk // nil: gone
	made     map[record.BlobID]bool
	writes   []simWrite
	ops      []record.BlockOp
	muts     []record.Mutation
}

func (c *simChange) last() meta.Change { return meta.Change{Epoch: c.name.Epoch, Seq: c.name.Seq} }

func (c *simChange) set(key, value []byte) {
	c.muts = append(c.muts, record.Mutation{Key: key, Value: value})
}

func (c *simChange) make() *record.Record {
	c.made = map[record.BlobID]bool{}
	for range 1 + c.rng.IntN(2) {
		c.operation()
	}
	if c.counters != c.o.counters {
		c.set(meta.CountersKey(), c.counters.Append(nil))
	}
	return &record.Record{Header: record.Header{Kind: record.Change, Name: c.name, Session: uint64(c.name.Epoch), Unique: uint64(c.name.Seq)}, Muts: c.muts, Ops: c.ops,
		Answered: []uint64{uint64(c.name.Seq) - 1}}
}

func (c *simChange) operation() {
	ino := meta.Ino(2 + c.rng.IntN(simFiles))
	key := meta.ChunkKey(ino, uint64(c.rng.IntN(simChunks)))
	if slices.ContainsFunc(c.muts, func(m record.Mutation) bool { return bytes.Equal(m.Key, key) }) {
		return
	}
	ch, have := c.o.chunks[string(key)]
	first := uint32(c.rng.IntN(simBlocks))
	count := 1 + uint32(c.rng.IntN(min(3, simBlocks-int(first))))
	switch p := c.rng.IntN(100); {
	case p < 25:
		in := meta.Inode{Mode: c.rng.Uint32(), Size: c.rng.Uint64()}
		c.set(meta.InodeKey(ino), in.Append(nil))
	case p < 30:
		c.muts = append(c.muts, record.Mutation{Key: meta.InodeKey(ino), Delete: true})
	case p < 75 || !have:
		c.write(key, ch, first, count)
	case p < 90:
		c.punch(key, ch, first, count)
	default:
		c.ops = append(c.ops, record.BlockOp{Kind: record.FreeBlob, Blob: ch.Blob})
		c.muts = append(c.muts, record.Mutation{Key: key, Delete: true})
		c.chunks[string(key)] = nil
	}
}

func (c *simChange) write(key []byte, ch meta.Chunk, first, count uint32) {
	if ch.Blob == 0 {
		ch = meta.Chunk{Blob: record.BlobID(c.counters.NextBlob + 1), Birth: c.last()}
		c.counters.NextBlob++
		c.made[ch.Blob] = true
	}
	op := record.BlockOp{Kind: record.WriteBlocks, Blob: ch.Blob, First: first, Count: count, Seals: make([]record.Seal, count)}
	top, known := c.o.tops[ch.Blob]
	op.Fresh = (known || c.made[ch.Blob]) && first >= top
	for i := first; i < first+count; i++ {
		stamp := mix(uint64(c.name.Incarnation), uint64(c.name.Seq), uint64(ch.Blob), uint64(i)) | 1
		op.Data = append(op.Data, simContent(stamp)...)
		c.writes = append(c.writes, simWrite{simBlock{ch.Blob, i}, stamp})
		ch.Blocks.Set(i)
	}
	ch.Last = c.last()
	c.ops = append(c.ops, op)
	c.chunks[string(key)] = &ch
	c.set(key, ch.Append(nil))
}

func (c *simChange) punch(key []byte, ch meta.Chunk, first, count uint32) {
	c.ops = append(c.ops, record.BlockOp{Kind: record.PunchBlocks, Blob: ch.Blob, First: first, Count: count})
	for i := first; i < first+count; i++ {
		c.writes = append(c.writes, simWrite{simBlock: simBlock{ch.Blob, i}})
		ch.Blocks.Clear(i)
	}
	ch.Last = c.last()
	c.chunks[string(key)] = &ch
	c.set(key, ch.Append(nil))
}

// seal seals the blocks, each with a nonce of its own.
func (c *simChange) seal(r *record.Record) error {
	n := c.o.nonces
	for i := range r.Ops {
		op := &r.Ops[i]
		for k := range op.Seals {
			n++
			op.Seals[k] = record.Seal{Incarnation: c.name.Incarnation, Seq: c.name.Seq, N: n, Origin: op.Blob, Block: op.First + uint32(k)}
			block := op.Data[k*record.BlockSize : (k+1)*record.BlockSize]
			if err := c.o.l.keys.Block(&op.Seals[k], block, bytes.Clone(block)); err != nil {
				return err
			}
		}
	}
	c.o.nonces = n // of this name, until a record has it
	return nil
}

// owners looks after the volume: where it has no owner, one begins, sooner or later; the one that is there writes.
func (s *sim) owners() {
	s.after(s.between(s.plan.writeEvery/2, s.plan.writeEvery*3/2), s.owners)
	o := s.owner
	if o != nil && o.opened.Load() && !o.checked && !o.l.dead.Load() && !o.l.applying.Load() && !o.l.group.hollow.Load() {
		o.checked, s.ready = true, true
		s.worked("epochs opened", 1)
		s.note("node %d: epoch %d is open", o.l.n.id, o.name.Epoch)
		s.verify(o.l)
	}
	switch {
	case o == nil || o.l.dead.Load() || o.ended.Load() || o.l.closing.Load() || !o.opened.Load() && time.Since(o.begun) > s.plan.impatience:
		if s.chance(0.1) {
			s.takeOver()
		}
	case o.opened.Load():
		seed, sync := s.rng.Uint64(), s.chance(s.plan.fsync)
		burst := 1
		if s.chance(0.05) {
			burst = 2 + s.rng.IntN(20)
		}
		o.do(func() {
			for k := range burst {
				if !o.ended.Load() {
					o.write(mix(seed, uint64(k)))
				}
			}
			if sync && !o.ended.Load() {
				o.sync()
			}
		})
	}
	for _, old := range s.stale { // they do not know
		seed := s.rng.Uint64()
		old.do(func() {
			old.write(seed)
			if !old.ended.Load() {
				old.sync()
			}
		})
	}
	s.stale = slices.DeleteFunc(s.stale, func(o *simOwner) bool { return o.ended.Load() || o.l.dead.Load() })
}

// takeOver starts an owner of the next epoch somewhere.
func (s *sim) takeOver() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	l := n.life
	if l == nil || !l.opened.Load() || l.closing.Load() || n.thaws() > 0 || n.witness {
		return
	}
	if l.owned { // a fenced owner aborts; another one is another process
		s.note("node %d: its process gives way to another, for another owner", n.id)
		s.crashNow(l, 0)
		s.after(time.Millisecond, func() { s.startNode(n) })
		return
	}
	if o := s.owner; o != nil && !o.ended.Load() && !o.l.dead.Load() {
		s.stale = append(s.stale, o)
	}
	s.own(l, s.epoch+1)
}
