package check

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"

	pebblerecord "github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"

	"github.com/remora-storage/remora/cachefs/seal/sealfs"
)

// manifest reads the list of the metadata's files strictly. Pebble takes its first bad record for the torn end of the file, and goes on
// from an older list: right after a power cut, and not if a good record follows, because each is synced before the next is written.
func (r *replicaCheck) manifest() error {
	meta := filepath.Join(r.path, "meta")
	names, err := r.disk.cfg.FS.List(meta)
	if err != nil {
		return err
	}
	marker, name, err := atomicfs.LocateMarkerInListing(r.disk.cfg.FS, meta, "manifest", names)
	if err != nil {
		return nil //nolint:nilerr // opening the store says so
	}
	if err := marker.Close(); err != nil || name == "" {
		return err
	}
	path := filepath.Join(meta, name)
	end, size, changed, err := r.manifestEnd(path)
	switch {
	case err != nil:
		r.find(path, "metadata", "manifest", "%v", err)
	case changed:
		r.find(path, "metadata", fmt.Sprintf("manifest, offset %d", end), "a record does not verify, and a later one does: the list of files that "+
			"counts is older than the newest one")
	case end < size:
		r.note(path, "metadata", fmt.Sprintf("manifest, offset %d", end), "the end is torn: what a power cut left of a change that was not synced")
	}
	return nil
}

// manifestEnd returns where the last good record ends, the size of the file, and whether a good record is behind the end.
func (r *replicaCheck) manifestEnd(path string) (end, size int64, changed bool, err error) {
	st, err := r.disk.cfg.FS.Stat(path)
	if err != nil {
		return 0, 0, false, err
	}
	if r.keys != nil {
		end, changed, err = sealfs.New(r.disk.cfg.FS, r.keys, nil).Torn(path)
		return end, st.Size(), changed, err
	}
	f, err := r.disk.cfg.FS.Open(path)
	if err != nil {
		return 0, 0, false, err
	}
	b, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, 0, false, err
	}
	end = goodRecords(b)
	return end, st.Size(), recordBehind(b[end:]), nil
}

// goodRecords returns where the last good record ends, or a little behind it.
func goodRecords(b []byte) int64 {
	rr, end := pebblerecord.NewReader(bytes.NewReader(b), 0), int64(0)
	for {
		rec, err := rr.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, rec)
		}
		if errors.Is(err, io.EOF) && rr.Offset() >= int64(len(b)) {
			return int64(len(b))
		}
		if err != nil {
			return end
		}
		end = min(rr.Offset(), int64(len(b)))
	}
}

// Pebble's record format (the LevelDB log format): checksum u32, length u16, type u8 of a chunk.
const (
	chunkHeader = 7
	chunkFull   = 1
	chunkFirst  = 2
)

// recordBehind tells whether a record starts anywhere behind the first byte of b.
func recordBehind(b []byte) bool {
	table := crc32.MakeTable(crc32.Castagnoli)
	for at := 1; at+chunkHeader < len(b); at++ {
		n, kind := int(binary.LittleEndian.Uint16(b[at+4:])), b[at+6]
		if kind != chunkFull && kind != chunkFirst || n == 0 || at+chunkHeader+n > len(b) {
			continue
		}
		sum := crc32.Checksum(b[at+6:at+chunkHeader+n], table)
		if binary.LittleEndian.Uint32(b[at:]) == (sum>>15|sum<<17)+0xa282ead8 { // LevelDB's masked CRC-32C
			return true
		}
	}
	return false
}
