package journal

import (
	"errors"
	"fmt"
)

// ErrNoSpace: the disk (or quota) has no room for the next segment. Nothing was written to the log, and nothing is poisoned:
// the same call may be tried again after Release, or after space was made.
var ErrNoSpace = errors.New("journal: no space for the next segment")

// ErrClosed: the journal was closed.
var ErrClosed = errors.New("journal: closed")

// FailedError is the first failed write or sync of a journal. It is final: every later call returns the same *FailedError,
// because after a failed fsync nobody knows what the disk holds, and a second one may answer success while the data is gone.
type FailedError struct {
	Op   string // what was tried: "append", "sync", "prepare", "release", ...
	File string
	Err  error
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("journal: %s %s: %v; the journal is stopped", e.Op, e.File, e.Err)
}

func (e *FailedError) Unwrap() error { return e.Err }

// DamageError: bytes that were known to be synced do not verify. This copy must not vote or be served any more.
type DamageError struct {
	File      string
	Offset    int64  // in File
	LSN       LSN    // of the first frame (or segment header) that does not verify
	SyncedEnd LSN    // the highest synced end that a valid frame or header names; above LSN
	Reason    string // what is wrong with the bytes at Offset
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("journal: %s is damaged at offset %d (LSN %d): %s, but the log was synced up to LSN %d; "+
		"this replica's copy cannot be trusted: rebuild it from its peers", e.File, e.Offset, e.LSN, e.Reason, e.SyncedEnd)
}

// MismatchError: a file verifies, but does not belong here, or was written by a newer version.
type MismatchError struct {
	File     string
	What     string // "disk ID", "segment bytes", "segment version", "frame kind", ...
	Found    string
	Expected string
	Fix      string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("journal: %s: %s is %s, expected %s: %s", e.File, e.What, e.Found, e.Expected, e.Fix)
}

const reservedNotZero = "reserved bytes are not zero"

// BodyError: a body does not decode as its kind.
type BodyError struct {
	Kind   Kind
	Length int
	Reason string
}

func (e *BodyError) Error() string {
	return fmt.Sprintf("journal: %s body of %d bytes: %s", e.Kind, e.Length, e.Reason)
}
