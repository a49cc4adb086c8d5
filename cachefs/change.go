package cachefs

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/telemetry"
)

// errStop ends a scan early.
var errStop = errors.New("stop")

func ignoreStop(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// change is a record in the making. It lives while fs.mu is held.
type change struct {
	fs       *FS
	caller   *Caller
	rec      *record.Record
	counters meta.Counters
	now      meta.Time
	began    int64 // by telemetry's clock
	inodes   []inodeChange
	chunks   []chunkChange
	names    []nameChange
	plain    []plain
	kept     []record.Seal // room for seals of the record
}

type nameChange struct {
	id     nameID
	dirent meta.Dirent // inode 0: gone
}

type inodeChange struct {
	ino  meta.Ino
	node meta.Inode
	gone bool
}

type chunkChange struct {
	id    chunkID
	chunk meta.Chunk
	gone  bool
}

// begin starts a change. fs.mu must be held for writing.
func (fs *FS) begin(caller *Caller) *change {
	t := fs.cfg.Now()
	k, m := &keeping{}, &making{}
	k.rec = record.Record{Header: record.Header{
		Kind:    record.Change,
		Name:    record.Name{Epoch: fs.cfg.Epoch, Incarnation: fs.cfg.Incarnation, Seq: fs.seq + 1},
		Session: fs.cfg.Session, Unique: caller.Unique, Time: t.UnixNano(),
	}, Muts: k.muts[:0], Ops: k.ops[:0]}
	m.change = change{fs: fs, caller: caller, counters: fs.counters, now: meta.TimeOf(t), began: caller.IO.Began(), rec: &k.rec, kept: k.seals[:],
		inodes: m.inodes[:0], chunks: m.chunks[:0], plain: m.plain[:0]}
	return &m.change
}

// keeping is a record with what most of them have, in one piece of memory.
type keeping struct {
	rec   record.Record
	muts  [3]record.Mutation
	ops   [1]record.BlockOp
	seals [2]record.Seal
}

// making is a change with what most of them have, likewise.
type making struct {
	change
	inodes [1]inodeChange
	chunks [1]chunkChange
	plain  [2]plain
}

// seals returns n of them for the record.
func (c *change) seals(n uint32) []record.Seal {
	if int(n) > len(c.kept) {
		return make([]record.Seal, n)
	}
	s := c.kept[:n:n]
	c.kept = c.kept[n:]
	return s
}

// last is how this change names itself in what it changes.
func (c *change) last() meta.Change {
	return meta.Change{Epoch: c.rec.Name.Epoch, Seq: c.rec.Name.Seq}
}

func (c *change) set(key, value []byte) {
	c.rec.Muts = append(c.rec.Muts, record.Mutation{Key: key, Value: value})
}

func (c *change) delete(key []byte) {
	c.rec.Muts = append(c.rec.Muts, record.Mutation{Key: key, Delete: true})
}

func (c *change) setInode(ino meta.Ino, in meta.Inode) {
	b := meta.AppendInodeKey(make([]byte, 0, meta.InodeKeySize+104), ino)
	key := b[:len(b):len(b)]
	c.set(key, in.Append(b[len(b):])) // behind the key, in the same piece
	c.inodes = append(c.inodes, inodeChange{ino: ino, node: in})
}

func (c *change) deleteInode(ino meta.Ino) {
	c.delete(meta.InodeKey(ino))
	c.inodes = append(c.inodes, inodeChange{ino: ino, gone: true})
	c.counters.Inodes--
}

func (c *change) setChunk(id chunkID, ch meta.Chunk) {
	b := meta.AppendChunkKey(make([]byte, 0, meta.ChunkKeySize+80), id.ino, id.index)
	key := b[:len(b):len(b)]
	c.set(key, ch.Append(b[len(b):])) // likewise
	c.chunks = append(c.chunks, chunkChange{id: id, chunk: ch})
}

func (c *change) deleteChunk(id chunkID) {
	c.delete(meta.ChunkKey(id.ino, id.index))
	c.chunks = append(c.chunks, chunkChange{id: id, gone: true})
}

// newIno gives out an inode number, or ENOSPC at the volume's limit.
func (c *change) newIno() (meta.Ino, error) {
	if c.counters.Inodes >= c.fs.cfg.Inodes {
		return 0, syscall.ENOSPC
	}
	c.counters.NextIno++
	c.counters.Inodes++
	return meta.Ino(c.counters.NextIno - 1), nil
}

// use counts bytes of content that come and go; ENOSPC if the volume would be larger than its size.
func (c *change) use(delta int64) error {
	used := uint64(int64(c.counters.Used) + delta)
	if delta > 0 && used > c.fs.cfg.Size {
		return syscall.ENOSPC
	}
	c.counters.Used = used
	return nil
}

// commit appends the change to the log and makes it visible. With an error nothing has changed.
func (c *change) commit(answer []byte) error {
	fs := c.fs
	if c.counters != fs.counters {
		c.set(meta.CountersKey(), c.counters.Append(make([]byte, 0, 40)))
	}
	c.rec.Answer = answer
	fs.answeredMu.Lock()
	c.rec.Answered, fs.answered = fs.answered, nil
	fs.answeredMu.Unlock()
	if err := c.seal(); err != nil {
		return err
	}
	start := telemetry.Now()
	c.caller.IO.Stage(telemetry.StageOverlay, c.began, start)
	err := fs.cfg.Log.Append(c.rec, c.caller.IO.Ref())
	c.caller.IO.Stage(telemetry.StageJournal, start, telemetry.Now())
	c.caller.IO.Record(uint64(c.rec.Name.Epoch), uint64(c.rec.Name.Seq))
	if err != nil {
		fs.answeredMu.Lock()
		fs.answered = append(fs.answered, c.rec.Answered...)
		fs.answeredMu.Unlock()
		return fmt.Errorf("append record %v: %w", c.rec.Name, err)
	}
	fs.seq, fs.nonces = c.rec.Name.Seq, 0
	first := fs.counters.NextBlob
	fs.counters = c.counters
	fs.over.add(c.rec)
	fs.edges.take(c)
	c.caller.Changed = true
	c.refreshCaches()
	c.refreshTops(first)
	return nil
}

func (c *change) refreshCaches() {
	fs := c.fs
	for _, i := range c.inodes {
		fs.named(i.ino, i.gone || i.node.Nlink > 0)
		if i.gone {
			forget(&fs.cacheMu, fs.inodes, i.ino)
		} else {
			remember(&fs.cacheMu, fs.inodes, i.ino, i.node)
		}
	}
	for _, ch := range c.chunks {
		if ch.gone {
			forget(&fs.cacheMu, fs.chunks, ch.id)
		} else {
			remember(&fs.cacheMu, fs.chunks, ch.id, ch.chunk)
		}
	}
	for _, n := range c.names {
		remember(&fs.cacheMu, fs.names, n.id, n.dirent)
	}
}
