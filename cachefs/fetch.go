package cachefs

import (
	"errors"
	"fmt"

	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/telemetry"
)

// lackError: blocks of a chunk cannot be read from the state, because they are not here, or bad.
type lackError struct {
	id           chunkID
	first, count uint32
	at           *store.Extent // what does not fit its seals; nil where blocks are absent
	cause        error
}

func lacks(id chunkID, first, count uint32, err error) error {
	var absent *store.AbsentError
	if !errors.As(err, &absent) {
		return err
	}
	return &lackError{id: id, first: first, count: count, cause: err}
}

func (e *lackError) Error() string {
	return fmt.Sprintf("inode %d chunk %d, block %d on: %v", e.id.ino, e.id.index, e.first, e.cause)
}

func (e *lackError) Unwrap() error { return e.cause }

// Is makes it damage where there is no Source, or the Source knows no copy either.
func (e *lackError) Is(target error) bool { return target == store.ErrDamaged }

// fetchTries bounds how often an operation begins again for want of the same blocks. What was brought stays, unless the disk is rotten.
const fetchTries = 3

// fetcher is what an operation has fetched. An operation that lacks blocks is run again when the Source has brought them: it has changed
// nothing by then, or what it may do twice. It lets go of all locks first: what is fetched takes its time, and Apply goes on meanwhile.
type fetcher struct {
	fs    *FS
	io    *telemetry.IO
	tries map[fetchedAt]int
}

type fetchedAt struct {
	id    chunkID
	first uint32
}

// fetch brings what the operation lacked that ended with err. With nil it is to be run again; else it has failed with what is returned.
func (f *fetcher) fetch(err error) error {
	var lack *lackError
	if f.fs.cfg.Source == nil || !errors.As(err, &lack) {
		return err
	}
	at := fetchedAt{lack.id, lack.first}
	if f.tries == nil {
		f.tries = map[fetchedAt]int{}
	}
	if f.tries[at]++; f.tries[at] > fetchTries {
		return err
	}
	start := telemetry.Now()
	why := f.fs.cfg.Source.Fetch(f.fs.fetches, lack.id.ino, lack.id.index, lack.first, lack.count)
	f.io.Stage(telemetry.StageFetch, start, telemetry.Now())
	if why != nil {
		return errors.Join(err, fmt.Errorf("no copy to be had: %w", why))
	}
	return nil
}
