package check

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// record prints the records of a replica, a line each.
func (d *dumper) record(replica diskdir.ID) func(journal.LSN, *record.Record, error) {
	return func(at journal.LSN, r *record.Record, err error) {
		if err != nil {
			d.print("record %d # %s", at, oneLine(err.Error()))
			return
		}
		kind := "change"
		if r.Kind == record.Owner {
			kind = "owner"
		}
		index := "-"
		if i, ok := d.indexes[bound{replica, uint64(r.Name.Epoch), uint64(r.Name.Seq)}]; ok {
			index = strconv.FormatUint(i, 10)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "record %d %s %v index=%s time=%s session=%x unique=%d answered=%d answer=%d", at, kind, r.Name, index,
			time.Unix(0, r.Time).UTC().Format(time.RFC3339Nano), r.Session, r.Unique, len(r.Answered), len(r.Answer))
		for i := range r.Muts {
			m := &r.Muts[i]
			if m.Delete {
				fmt.Fprintf(&b, " del %s", d.key(m.Key))
			} else {
				fmt.Fprintf(&b, " set %s:%d", d.key(m.Key), len(m.Value))
			}
		}
		for i := range r.Ops {
			o := &r.Ops[i]
			switch o.Kind {
			case record.WriteBlocks:
				fmt.Fprintf(&b, " write blob=%d blocks=%d+%d", o.Blob, o.First, o.Count)
			case record.PunchBlocks:
				fmt.Fprintf(&b, " punch blob=%d blocks=%d+%d", o.Blob, o.First, o.Count)
			case record.FreeBlob:
				fmt.Fprintf(&b, " free blob=%d", o.Blob)
			}
		}
		d.print("%s", b.String())
	}
}

// key describes a key, with the name in it if that was asked for.
func (d *dumper) key(key []byte) string {
	s := strings.ReplaceAll(meta.Describe(key), ", ", ",")
	if k, err := meta.ParseKey(key); err == nil && k.Name != "" && d.cfg.Names {
		s += strconv.Quote(k.Name)
	}
	return s
}

// meta prints the metadata as of its last flush.
func (d *dumper) meta(r *replicaCheck) error {
	if r.store == nil {
		return d.stop(r.path, errors.New(r.report.Findings[len(r.report.Findings)-1].Means))
	}
	return d.stop(r.path, r.store.Scan([]byte{0}, bytes.Repeat([]byte{0xff}, 16), func(key, value []byte) error {
		d.print("%s", d.entry(key, value))
		return nil
	}))
}

// entry is the line of a key with its value.
func (d *dumper) entry(key, value []byte) string {
	if key[0] >= meta.LocalPrefix {
		return localEntry(key, value)
	}
	line := "key " + d.key(key)
	k, err := meta.ParseKey(key)
	if err == nil {
		var s string
		if s, err = d.value(k, value); err == nil {
			return line + " " + s
		}
	}
	return line + " # " + oneLine(err.Error())
}

func (d *dumper) value(k meta.Key, value []byte) (string, error) {
	switch k.Kind {
	case meta.KeyInode:
		in, err := meta.DecodeInode(value)
		return fmt.Sprintf("mode=%o uid=%d gid=%d nlink=%d rdev=%d flags=%d size=%d blocks=%d parent=%d mtime=%d.%09d ctime=%d.%09d", in.Mode, in.UID, in.GID,
			in.Nlink, in.Rdev, in.Flags, in.Size, in.Blocks, in.Parent, in.Mtime.Sec, in.Mtime.Nsec, in.Ctime.Sec, in.Ctime.Nsec), err
	case meta.KeyDirent:
		e, err := meta.DecodeDirent(value)
		return fmt.Sprintf("inode=%d type=%d cookie=%d", e.Ino, e.Type, e.Cookie), err
	case meta.KeyCookie:
		e, err := meta.DecodeCookieEntry(meta.CookieKey(k.Ino, k.Number), value)
		s := fmt.Sprintf("inode=%d type=%d", e.Ino, e.Type)
		if d.cfg.Names {
			s += " name=" + strconv.Quote(e.Name)
		}
		return s, err
	case meta.KeyChunk:
		c, err := meta.DecodeChunk(value)
		return fmt.Sprintf("blob=%d birth=%d/%d last=%d/%d blocks=%s", c.Blob, c.Birth.Epoch, c.Birth.Seq, c.Last.Epoch, c.Last.Seq, ranges(&c.Blocks)), err
	case meta.KeyCounters:
		c, err := meta.DecodeCounters(value)
		return fmt.Sprintf("next-inode=%d next-blob=%d next-cookie=%d used=%d inodes=%d", c.NextIno, c.NextBlob, c.NextCookie, c.Used, c.Inodes), err
	case meta.KeyXattr:
		if k.Name == meta.XattrAccessACL || k.Name == meta.XattrDefaultACL {
			a, err := meta.DecodeACL(value)
			return fmt.Sprintf("%s=%s", strings.TrimPrefix(k.Name, "system.posix_"), a), err
		}
	case meta.KeyOrphan:
		return fmt.Sprintf("kind=%x", value), nil
	}
	return fmt.Sprintf("bytes=%d", len(value)), nil
}

func localEntry(key, value []byte) string {
	l, err := store.DecodeLocal(key, value)
	switch {
	case err != nil:
		return fmt.Sprintf("local %x # %s", key, oneLine(err.Error()))
	case l.Applied != nil:
		a := l.Applied.Acceptance
		return fmt.Sprintf("local applied index=%d epoch=%d incarnation=%d seq=%d", l.Applied.Index, a.Epoch, a.Incarnation, a.Last)
	case l.Residency != nil:
		r := l.Residency
		return fmt.Sprintf("local blob=%d slot=%d offset=%d last=%d/%d here=%s", r.Blob, r.Slot, store.BlockOffset(r.Slot, 0), r.Last.Epoch, r.Last.Seq, ranges(&r.Here))
	case l.Seals != nil:
		var b strings.Builder
		fmt.Fprintf(&b, "local seals blob=%d", l.Seals.Blob)
		for i := range l.Seals.Seals {
			if s := &l.Seals.Seals[i]; !s.IsZero() {
				fmt.Fprintf(&b, " %d:%d/%d/%d,crc=%08x,origin=%d/%d,flags=%d", int(l.Seals.First)+i, s.Incarnation, s.Seq, s.N, s.CRC, s.Origin, s.Block, s.Flags)
			}
		}
		return b.String()
	}
	return fmt.Sprintf("local answers bytes=%d", len(value))
}

// ranges prints the set bits of a bitmap: 0-3,7.
func ranges(m *meta.Bitmap) string {
	var parts []string
	for i := uint32(0); i < record.ChunkBlocks; i++ {
		if !m.Has(i) {
			continue
		}
		first := i
		for i+1 < record.ChunkBlocks && m.Has(i+1) {
			i++
		}
		if first == i {
			parts = append(parts, strconv.Itoa(int(i)))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", first, i))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ",")
}
