package replication

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// simOracle knows what was written, what the group has committed, and what a replica must have at any index. It uses nothing of the
// product's rules: it has its own of what is accepted. Guarded by sim.mu.
type simOracle struct {
	s       *sim
	records map[record.Name]*simRecord
	nonces  map[simNonce]bool
	newest  []simNonce // since unwrite
	log     map[record.Index]simEntry
	next    record.Index // the first that is not known
	at      []record.Acceptance
	opened  map[uint64]simEpoch
	acked   map[uint64]record.Seq
	leaders map[uint64]uint64 // of a term
	keys    map[string][]simVersion
	blocks  map[simBlock][]simVersion
	loss    *simLoss // that was accepted, and not seen in the log yet
}

type simNonce struct {
	incarnation record.Incarnation
	nonce       [12]byte
}

// simRecord is what a record does.
type simRecord struct {
	kind   record.Kind
	muts   []record.Mutation
	blocks []simWrite
}

type simBlock struct {
	blob  record.BlobID
	block uint32
}

// simWrite puts content, told by a stamp, into a block; 0: a hole.
type simWrite struct {
	simBlock
	stamp uint64
}

// simVersion is what a key or a block is from an index on.
type simVersion struct {
	from  record.Index
	value []byte // nil: nothing
	stamp uint64
}

type simEntry struct {
	term uint64
	name record.Name // zero: an entry of Raft's own
	node uint64
}

type simEpoch struct {
	incarnation record.Incarnation
	last        record.Seq
}

type simAck struct {
	epoch uint64
	seq   record.Seq
	node  uint64
	part  *simPart
}

func newSimOracle(s *sim) *simOracle {
	return &simOracle{s: s, records: map[record.Name]*simRecord{}, nonces: map[simNonce]bool{}, log: map[record.Index]simEntry{}, next: 1,
		at: make([]record.Acceptance, 1), opened: map[uint64]simEpoch{}, acked: map[uint64]record.Seq{}, leaders: map[uint64]uint64{},
		keys: map[string][]simVersion{}, blocks: map[simBlock][]simVersion{}}
}

// nonce is used for the first time, or it is a violation.
func (o *simOracle) nonce(i record.Incarnation, nonce [12]byte) {
	n := simNonce{i, nonce}
	if o.nonces[n] {
		o.s.violateLocked("nonce %x of incarnation %d is used twice", nonce, i)
	}
	o.nonces[n] = true
	o.newest = append(o.newest, n)
	o.s.work["nonces"]++
}

// unwrite forgets a record for which the disk had no space, and the nonces since the last call: the journal has written nothing of it.
func (o *simOracle) unwrite(n record.Name) {
	delete(o.records, n)
	for _, n := range o.newest {
		delete(o.nonces, n)
	}
}

// write notes a record before it is appended.
func (o *simOracle) write(n record.Name, r *simRecord) {
	if o.records[n] != nil {
		o.s.violateLocked("the name %v is given twice", n)
	}
	o.records[n] = r
}

// commit takes what a replica says is committed.
func (o *simOracle) commit(index record.Index, term uint64, r *record.Record, node uint64) {
	e := simEntry{term: term, node: node}
	if r != nil {
		e.name = r.Name
		if o.records[r.Name] == nil {
			o.s.violateLocked("node %d committed record %v, which nobody has written", node, r.Name)
			return
		}
	}
	if have, ok := o.log[index]; ok {
		if (have.term != e.term || have.name != e.name) && !o.parts(index, node) {
			o.s.violateLocked("at index %d node %d committed %v of term %d, and node %d %v of term %d", index, have.node, have.name, have.term, node, e.name, e.term)
		}
		if _, still := o.log[index]; still {
			return
		}
	}
	o.keeps(index, e)
	o.log[index] = e
	o.stepAll()
}

// stepAll goes through what is known of the log.
func (o *simOracle) stepAll() {
	for {
		e, ok := o.log[o.next]
		if !ok {
			return
		}
		o.step(o.next, e)
		o.next++
	}
}

// step decides whether the next entry of the log counts, and notes what it changes.
func (o *simOracle) step(index record.Index, e simEntry) {
	a := o.at[index-1]
	r := o.records[e.name]
	switch {
	case e.name == record.Name{}:
	case r.kind == record.Owner && e.name.Epoch > a.Epoch && e.name.Seq == 0:
		a = record.Acceptance{Epoch: e.name.Epoch, Incarnation: e.name.Incarnation}
		o.opened[uint64(a.Epoch)] = simEpoch{incarnation: a.Incarnation}
		o.change(index, r)
	case r.kind == record.Change && e.name.Epoch == a.Epoch && e.name.Incarnation == a.Incarnation && e.name.Seq == a.Last+1:
		a.Last++
		o.opened[uint64(a.Epoch)] = simEpoch{a.Incarnation, a.Last}
		o.change(index, r)
	default:
		o.s.work["committed and not accepted"]++
	}
	o.at = append(o.at, a)
	o.s.work["committed"]++
}

func (o *simOracle) change(index record.Index, r *simRecord) {
	for _, m := range r.muts {
		v := simVersion{from: index, value: m.Value}
		if m.Delete {
			v.value = nil
		}
		o.keys[string(m.Key)] = append(o.keys[string(m.Key)], v)
	}
	for _, w := range r.blocks {
		o.blocks[w.simBlock] = append(o.blocks[w.simBlock], simVersion{from: index, stamp: w.stamp})
	}
}

// ack checks that what an fsync acknowledged is accepted.
func (o *simOracle) ack(a simAck) {
	if e, ok := o.opened[a.epoch]; !ok || e.last < a.seq {
		o.s.violateLocked("node %d acknowledged record %d of epoch %d, of which the group has accepted up to %d", a.node, a.seq, a.epoch, e.last)
	}
	o.acked[a.epoch] = max(o.acked[a.epoch], a.seq)
}

// led checks that a term has one leader.
func (o *simOracle) led(term, node uint64) {
	if have, ok := o.leaders[term]; ok && have != node {
		o.s.violateLocked("nodes %d and %d lead in term %d", have, node, term)
	}
	o.leaders[term] = node
}

// ascends checks that a replica's log, as its journal has it when it starts, is one that Raft can have written: terms never fall.
func (o *simOracle) ascends(l *simLife) {
	core := l.group.peers.core
	term, _, err := core.At(core.Base())
	if err != nil {
		o.s.violate("node %d: term of %d: %v", l.n.id, core.Base(), err)
	}
	for _, e := range core.Entries() {
		if e.Term < term {
			o.s.violate("node %d starts with an entry of term %d at index %d, behind one of term %d", l.n.id, e.Term, e.Index, term)
		}
		term = e.Term
	}
}

// ahead tells whether an earlier process of the node may have written a newer block than its metadata has: it knew that the record was
// committed, and this one does not know that yet.
func (o *simOracle) ahead(b simBlock, index record.Index, n *simPart) bool {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	for _, v := range o.blocks[b] {
		if v.from > index && v.from <= n.committed {
			o.s.work["blocks newer than the metadata"]++
			return true
		}
	}
	return false
}

// writers are the records that changed a block.
func (o *simOracle) writers(b simBlock) (names string) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	for _, v := range o.blocks[b] {
		names += fmt.Sprintf("%v at %d, ", o.log[v.from].name, v.from)
	}
	return names
}

func at(versions []simVersion, index record.Index) simVersion {
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].from <= index {
			return versions[i]
		}
	}
	return simVersion{}
}

// simState is the replicated state of a store.
type simState struct {
	index      record.Index
	acceptance record.Acceptance
	keys       map[string]string
	blocks     map[simBlock][]byte
	absent     int // blocks that are still to come
}

// check compares a store's state with what it must be at its index.
func (o *simOracle) check(st *simState) error {
	if st.index >= o.next {
		return fmt.Errorf("it has applied index %d, and the group has committed up to %d", st.index, o.next-1)
	}
	if want := o.at[st.index]; st.acceptance != want {
		return fmt.Errorf("its acceptance at index %d is %+v, not %+v", st.index, st.acceptance, want)
	}
	n := 0
	for _, key := range slices.Sorted(maps.Keys(o.keys)) {
		want := at(o.keys[key], st.index).value
		if want == nil {
			continue
		}
		n++
		if got, ok := st.keys[key]; !ok || got != string(want) {
			return fmt.Errorf("at index %d key %x is %x, not %x", st.index, key, got, want)
		}
	}
	if n != len(st.keys) {
		return fmt.Errorf("at index %d it has %d keys, not %d", st.index, len(st.keys), n)
	}
	for b, got := range st.blocks {
		if want := at(o.blocks[b], st.index).stamp; want == 0 || !bytes.Equal(got, simContent(want)) {
			return fmt.Errorf("at index %d block %d of blob %d is %x..., not %x...", st.index, b.block, b.blob, got[:8], simContent(want)[:8])
		}
	}
	return nil
}

// simContent is what a block with a stamp holds.
func simContent(stamp uint64) []byte {
	b := make([]byte, record.BlockSize)
	for i := 0; i < len(b); i += 8 {
		for k := range 8 {
			b[i+k] = byte(stamp >> (8 * k))
		}
		stamp += 0x9e3779b97f4a7c15
	}
	return b
}

// stateOf reads all that a replica must have alike with the others.
func (l *simLife) stateOf() (*simState, error) {
	pos := l.group.Store().Position()
	st := &simState{index: pos.Index, acceptance: pos.Acceptance, keys: map[string]string{}, blocks: map[simBlock][]byte{}}
	var chunks []meta.Chunk
	err := l.group.Store().Scan([]byte{0}, []byte{meta.LocalPrefix}, func(k, v []byte) error {
		st.keys[string(k)] = string(v)
		if simIsChunk(k) {
			c, err := meta.DecodeChunk(v)
			if err != nil {
				return err
			}
			chunks = append(chunks, c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, c := range chunks {
		for i := range uint32(simBlocks) {
			if !c.Blocks.Has(i) {
				continue
			}
			b, err := l.readBlock(c.Blob, i)
			if absent := new(store.AbsentError); errors.As(err, &absent) {
				st.absent++
				l.s.worked("absent blocks", 1)
				continue
			}
			if errors.Is(err, store.ErrStale) && l.part.oracle.ahead(simBlock{c.Blob, i}, st.index, l.part) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("at index %d block %d of blob %d, written by %s: %w", st.index, i, c.Blob, l.part.oracle.writers(simBlock{c.Blob, i}), err)
			}
			if b != nil {
				st.blocks[simBlock{c.Blob, i}] = b
			}
		}
	}
	return st, nil
}

// readBlock reads a block from the store.
func (l *simLife) readBlock(blob record.BlobID, block uint32) ([]byte, error) {
	e, err := l.group.Store().Locate(blob, block, 1)
	if err != nil {
		return nil, err
	}
	b := make([]byte, record.BlockSize)
	return b, l.group.Store().Read(e, b)
}
