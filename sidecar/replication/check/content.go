package check

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// content is everything that the metadata says, collected in one scan in the order of the keys: inodes first, then names, cookies,
// chunks, orphans, attributes, counters, and the replica's own keys.
type content struct {
	*replicaCheck
	ctx      context.Context
	path     string // of the metadata
	inodes   map[meta.Ino]*inode
	owners   map[record.BlobID]*chunk
	blobs    map[record.BlobID]*blob
	slots    map[uint32]record.BlobID
	counters *meta.Counters
	applied  *store.Checkpoint
	keys     int
	partial  bool // content may be absent: it comes from peers
	absent   int  // chunks with absent blocks

	dir      meta.Ino               // whose names are being scanned
	names    map[uint64]meta.Dirent // of dir, by cookie
	nameSums map[uint64]string      // of dir, by cookie

	behind []behind

	used       uint64 // bytes of blocks and of inline content
	lastIno    meta.Ino
	lastBlob   record.BlobID
	lastCookie uint64
}

// content checks the metadata and, if the log was applied, the arena.
func (r *replicaCheck) content(ctx context.Context) error {
	c := &content{replicaCheck: r, ctx: ctx, path: filepath.Join(r.path, "meta"), inodes: map[meta.Ino]*inode{},
		owners: map[record.BlobID]*chunk{}, blobs: map[record.BlobID]*blob{}, slots: map[uint32]record.BlobID{}}
	err := r.store.Scan([]byte{0}, bytes.Repeat([]byte{0xff}, 16), c.key)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.find(c.path, "metadata", "", "the scan ends after %s: %v", count(c.keys, "key"), err)
		return nil // what was not seen is not missing
	}
	c.endNames()
	r.result.Inodes, r.result.Blobs = len(c.inodes), len(c.blobs)
	if len(c.inodes) == 0 && c.counters == nil && len(c.blobs) == 0 {
		r.note(c.path, "metadata", "", "no file system yet")
		c.checkApplied()
		return nil
	}
	c.checkInodes()
	c.checkCounters()
	c.checkApplied()
	c.checkBlobs()
	return c.arena()
}

// key takes the next key.
func (c *content) key(key, value []byte) error {
	if c.keys++; c.keys%4096 == 0 && c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	if key[0] >= meta.LocalPrefix {
		return c.local(key, value)
	}
	k, err := meta.ParseKey(key)
	if err == nil {
		err = c.replicated(k, value)
	}
	if err != nil {
		c.find(c.path, "metadata", "key "+meta.Describe(key), "%v", err)
	}
	return nil
}

// replicated takes a key of the volume. An error says why it does not decode.
func (c *content) replicated(k meta.Key, value []byte) error {
	switch k.Kind {
	case meta.KeyInode:
		return c.inode(k.Ino, value)
	case meta.KeyInline:
		return c.inline(k.Ino, value)
	case meta.KeyDirent:
		return c.dirent(k, value)
	case meta.KeyCookie:
		return c.cookie(k, value)
	case meta.KeyChunk:
		return c.chunk(k, value)
	case meta.KeyOrphan:
		return c.orphan(k.Ino, value)
	case meta.KeyXattr:
		return c.xattr(k, value)
	case meta.KeyCounters:
		counters, err := meta.DecodeCounters(value)
		c.counters = &counters
		return err
	case meta.KeySalt:
		if len(value) != 40 {
			return fmt.Errorf("%w: salt of %d bytes", meta.ErrMalformed, len(value))
		}
	}
	return nil
}

// local takes a key of the replica.
func (c *content) local(key, value []byte) error {
	l, err := store.DecodeLocal(key, value)
	switch {
	case err != nil:
		c.find(c.path, "metadata", fmt.Sprintf("key %x", key), "%v", err)
	case l.Incomplete:
		c.partial = true
	case l.Applied != nil:
		c.applied = l.Applied
	case l.Residency != nil:
		c.residency(l.Residency)
	case l.Seals != nil:
		c.seals(l.Seals)
	}
	return nil
}

// checkApplied compares the position that is in the metadata with where the log has led.
func (c *content) checkApplied() {
	switch at := c.store.Position(); {
	case c.applied == nil:
		if at.Index > 0 {
			c.find(c.path, "metadata", "applied index", "is missing, and the checkpoint is at index %d", at.Index)
		}
	case c.replayed && *c.applied != at:
		c.find(c.path, "metadata", "applied index", "is %d (%+v), and the log leads to %d (%+v)", c.applied.Index, c.applied.Acceptance,
			at.Index, at.Acceptance)
	}
}

// checkCounters compares the volume's counters with what is there.
func (c *content) checkCounters() {
	n := c.counters
	if n == nil {
		c.find(c.path, "metadata", "key counters", "is missing: the volume has no file system for its owner")
		return
	}
	below := func(what string, next, last uint64) {
		if next <= last {
			c.find(c.path, "counters", "next "+what, "is %d, and %d is in use: numbers would be given twice", next, last)
		}
	}
	below("inode", n.NextIno, uint64(c.lastIno))
	below("blob", n.NextBlob, uint64(c.lastBlob))
	below("cookie", n.NextCookie, max(c.lastCookie, 2))
	if n.NextCookie >= 1<<63 {
		c.find(c.path, "counters", "next cookie", "is %d: cookies have 63 bits", n.NextCookie)
	}
	if n.Used != c.used {
		c.find(c.path, "counters", "used", "are %d bytes, and files have %d", n.Used, c.used)
	}
	if n.Inodes != uint64(len(c.inodes)) {
		c.find(c.path, "counters", "inodes", "are %d, and there are %d", n.Inodes, len(c.inodes))
	}
}
