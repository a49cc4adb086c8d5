// Package journal is the one journal of a disk directory.
package journal

import (
	"errors"
	"io"
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// LSN is a position in the log: segment number * SegmentBytes + offset in the segment.
type LSN uint64

// MaxBodyBytes is the longest body of a frame.
const MaxBodyBytes = 2 << 20

// Options of a journal.
type Options struct {
	FS           vfs.FS
	Dir          string
	DiskID       [16]byte
	SegmentBytes int64 // 0 means 16 MiB
	MaxFree      int   // free segment files kept for reuse; 0 means 4, negative none
	Rand         io.Reader
	Logger       *slog.Logger // nil discards
}

// Frame is one frame of the log. Body is valid only during visit.
type Frame struct {
	LSN            LSN
	End            LSN // LSN of the next frame, if it is in the same segment
	Kind           Kind
	Group, Replica uint64
	SyncedEnd      LSN
	Body           []byte
}

// Summary is what Scan found.
type Summary struct {
	Segments   int
	Free       int
	Frames     int
	Start, End LSN
	SyncedEnd  LSN
	Torn       bool
}

type Journal struct{}

var errTODO = errors.New("journal: not yet")

func Open(o Options, visit func(Frame) error) (*Journal, error) { return nil, errTODO }
func Scan(o Options, visit func(Frame) error) (Summary, error)  { return Summary{}, errTODO }
func (j *Journal) Append(kind Kind, group, replica uint64, parts ...[]byte) (LSN, error) {
	return 0, errTODO
}
func (j *Journal) AppendPayload(group, replica uint64, p Payload) (LSN, error)     { return 0, errTODO }
func (j *Journal) AppendBinding(group, replica uint64, b Binding) (LSN, error)     { return 0, errTODO }
func (j *Journal) AppendHardState(group, replica uint64, h HardState) (LSN, error) { return 0, errTODO }
func (j *Journal) AppendEntry(group, replica uint64, e Entry) (LSN, error)         { return 0, errTODO }
func (j *Journal) Sync() (LSN, error)                                              { return 0, errTODO }
func (j *Journal) Synced() LSN                                                     { return 0 }
func (j *Journal) Start() LSN                                                      { return 0 }
func (j *Journal) End() LSN                                                        { return 0 }
func (j *Journal) Prepare() error                                                  { return errTODO }
func (j *Journal) Release(below LSN) error                                         { return errTODO }
func (j *Journal) Close() error                                                    { return errTODO }
