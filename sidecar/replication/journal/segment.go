package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The layout of a segment; FORMAT.md is the table.
const (
	headerPageBytes = 4096
	segmentMagic    = "RMRJSEG1"
	segmentVersion  = 1
	// minSegmentBytes leaves room for a frame beside the two header pages. It is small for tests' sake.
	minSegmentBytes = 64 << 10
	zeroFillBytes   = 32 << 10 // and so the folios of the page cache stay small: see placeBytes of cachefs/store
)

const (
	segmentSuffix = ".seg"  // in the log, or prepared to be its next segment
	freeSuffix    = ".free" // whole, zero or stale, not in the log
	tempSuffix    = ".tmp"  // being zero-filled
)

func segmentName(seq uint64) string { return fmt.Sprintf("%016x%s", seq, segmentSuffix) }
func freeName(seq uint64) string    { return fmt.Sprintf("%016x%s", seq, freeSuffix) }
func tempName(seq uint64) string    { return fmt.Sprintf("%016x%s", seq, tempSuffix) }

// parseSegmentName is the inverse of segmentName; false for every other name.
func parseSegmentName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(hex, 16, 64)
	return seq, err == nil && seq > 0 && segmentName(seq) == name
}

// segmentHeader is written at both ends of a segment's file when the segment becomes a part of the log.
type segmentHeader struct {
	version      uint16
	flags        uint16
	segmentBytes uint64
	seq          uint64
	generation   uint64
	diskID       [16]byte
	prevEnd      LSN // where the log of the previous segment ended
	syncedEnd    LSN // everything below was known to be synced
}

// page returns the header as it is on disk.
func (h segmentHeader) page() []byte {
	le := binary.LittleEndian
	p := make([]byte, headerPageBytes)
	copy(p, segmentMagic)
	le.PutUint16(p[8:], h.version)
	le.PutUint16(p[10:], h.flags)
	le.PutUint64(p[16:], h.segmentBytes)
	le.PutUint64(p[24:], h.seq)
	le.PutUint64(p[32:], h.generation)
	copy(p[40:56], h.diskID[:])
	le.PutUint64(p[56:], uint64(h.prevEnd))
	le.PutUint64(p[64:], uint64(h.syncedEnd))
	le.PutUint32(p[headerPageBytes-4:], crc32.Checksum(p[:headerPageBytes-4], castagnoli))
	return p
}

// parseSegmentHeader returns false if p is not, as a whole, a header that somebody wrote.
func parseSegmentHeader(p []byte) (segmentHeader, bool) {
	le := binary.LittleEndian
	if len(p) < headerPageBytes || !bytes.HasPrefix(p, []byte(segmentMagic)) ||
		le.Uint32(p[headerPageBytes-4:]) != crc32.Checksum(p[:headerPageBytes-4], castagnoli) {
		return segmentHeader{}, false
	}
	h := segmentHeader{
		version:      le.Uint16(p[8:]),
		flags:        le.Uint16(p[10:]),
		segmentBytes: le.Uint64(p[16:]),
		seq:          le.Uint64(p[24:]),
		generation:   le.Uint64(p[32:]),
		prevEnd:      LSN(le.Uint64(p[56:])),
		syncedEnd:    LSN(le.Uint64(p[64:])),
	}
	copy(h.diskID[:], p[40:56])
	return h, true
}

// belongs returns a *MismatchError if h, which verifies, is not a header of this disk, size and version.
func (h segmentHeader) belongs(o *Options, file string) error {
	mismatch := func(what string, found, expected any, fix string) error {
		return &MismatchError{File: file, What: what, Found: fmt.Sprint(found), Expected: fmt.Sprint(expected), Fix: fix}
	}
	if h.version != segmentVersion {
		return mismatch("segment version", h.version, segmentVersion,
			"it was written by another version of Remora; start that version, or a newer one")
	}
	if h.flags != 0 {
		return mismatch("segment flags", h.flags, 0,
			"it was written by a newer version of Remora; start that version, or a newer one")
	}
	if h.segmentBytes != uint64(o.SegmentBytes) {
		return mismatch("segment bytes", h.segmentBytes, o.SegmentBytes,
			"set the journal's segment size to what the files have")
	}
	if h.diskID != o.DiskID {
		return mismatch("disk ID", fmt.Sprintf("%x", h.diskID), fmt.Sprintf("%x", o.DiskID),
			"the file was made in another disk directory; put it back there, and restore this directory's own")
	}
	return nil
}

// segment is one segment of an open journal. Its fields are guarded by Journal.mu once it is in the log.
type segment struct {
	seq        uint64
	name       string
	base       LSN // of its first byte
	prevEnd    LSN // where the log of the segment before it ended
	end        LSN // of its last frame
	generation uint64
	file       vfs.File // nil once all of it is synced and nothing will be appended
}

// zeroFill writes n zeros from the start of f, so that a later fdatasync has no size and no extent to record.
func zeroFill(f vfs.File, n int64) error {
	zeros := make([]byte, min(n, zeroFillBytes))
	for off := int64(0); off < n; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), n-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// writeHeaders writes page at both ends of the segment.
func writeHeaders(f vfs.File, page []byte, segmentBytes int64) error {
	if _, err := f.WriteAt(page, 0); err != nil {
		return err
	}
	_, err := f.WriteAt(page, segmentBytes-headerPageBytes)
	return err
}
