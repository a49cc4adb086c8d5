package replication

import (
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/journal"
	"github.com/remora-storage/remora/telemetry"
)

// term of a group of one: it elects itself once.
const term = 1

// core is the protocol of a group of one, without goroutines, clock or I/O: records get their index when they are bound, are
// committed when their binding is synced, and accepted when they are next in their epoch. (The Raft library takes its place when
// there are peers; the journal's frames stay.)
type core struct {
	last       record.Index      // newest index that was given
	committed  record.Index      // newest index whose binding is synced
	unbound    []item            // written, without an index
	bound      []item            // with an index, not synced
	acceptance record.Acceptance // of what is committed
}

// item is a record in the journal.
type item struct {
	index   record.Index
	rec     *record.Record
	placed  []store.Placement // content that is in the arena alone
	payload journal.LSN       // where its frame starts
	bound   journal.LSN       // where the frame of its binding ends
	span    telemetry.SpanRef
	since   int64 // when it was in the journal, by telemetry.Now
	encoded int   // rec.EncodedSize(), if that was asked for when it was made; else 0

	// Of a group of several:
	meta []byte // the record without content, as it was sealed
	own  bool   // appended here, and not accepted yet
	done bool   // applied
	// raw are the bytes of a record of which a witness knows only the name: rec has no more, and meta is all of it, until it is in the journal.
	raw int
}

// append takes a record whose payload frame was written.
func (c *core) append(it item) { c.unbound = append(c.unbound, it) }

// bind gives indexes to everything that has none, and returns the bindings to write. The caller reports where they end.
func (c *core) bind() []journal.Binding {
	var frames []journal.Binding
	for i := range c.unbound {
		it := &c.unbound[i]
		c.last++
		it.index = c.last
		n := it.rec.Name
		if k := len(frames) - 1; k >= 0 && frames[k].Epoch == uint64(n.Epoch) && frames[k].Seq+uint64(frames[k].Count) == uint64(n.Seq) {
			frames[k].Count++
			continue
		}
		frames = append(frames, journal.Binding{Index: uint64(it.index), Term: term, Epoch: uint64(n.Epoch), Seq: uint64(n.Seq), Count: 1})
	}
	return frames
}

// unbind takes the last bind back: its bindings are not in the journal.
func (c *core) unbind() {
	c.last -= record.Index(len(c.unbound))
}

// written says that the bindings of the last bind end at lsn.
func (c *core) written(lsn journal.LSN) {
	for i := range c.unbound {
		c.unbound[i].bound = lsn
	}
	c.bound = append(c.bound, c.unbound...)
	c.unbound = nil
}

// synced says that the journal is durable up to lsn, and returns what is committed by it, in order.
func (c *core) synced(lsn journal.LSN) []item {
	n := 0
	for n < len(c.bound) && c.bound[n].bound <= lsn {
		it := &c.bound[n]
		c.committed = it.index
		c.acceptance.Step(it.rec.Kind, it.rec.Name)
		n++
	}
	done := c.bound[:n:n]
	c.bound = c.bound[n:]
	if len(c.bound) == 0 {
		c.bound = nil // lets go of the records behind it
	}
	return done
}

// entries are what the store takes.
func entries(items []item) []store.Entry {
	es := make([]store.Entry, len(items))
	for i := range items {
		es[i] = store.Entry{Index: items[i].index, Record: items[i].rec, Placed: items[i].placed}
	}
	return es
}
