package replication

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/remora-storage/remora/disk"
)

// failStop is a file system on which a failed sync is the last one that matters: every sync that ends after it fails too, whichever
// file it is of. A disk that could not flush its cache may have lost anything that was in it, of any file, and the kernel calls
// those pages clean: the next sync of another file succeeds and proves nothing (I8). So neither a checkpoint nor an acknowledgement
// may come out of one.
type failStop struct {
	disk.FS
	mu     sync.Mutex
	ended  *sync.Cond // a sync has ended
	began  uint64     // syncs so far
	flying map[uint64]bool
	failed error
}

func newFailStop(fs disk.FS) *failStop {
	s := &failStop{FS: fs, flying: map[uint64]bool{}}
	s.ended = sync.NewCond(&s.mu)
	return s
}

// retryPause is how long Pebble, which tries a flush again for ever and at once, is kept from it.
const retryPause = 100 * time.Millisecond

// sync runs one sync, and returns the first failure of any.
func (s *failStop) sync(name string, sync func() error) error {
	s.mu.Lock()
	if s.failed != nil {
		defer s.mu.Unlock()
		return s.failed
	}
	s.began++
	n := s.began
	s.flying[n] = true
	s.mu.Unlock()
	err := sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flying, n)
	s.ended.Broadcast()
	if err != nil && s.failed == nil {
		s.failed = fmt.Errorf("the disk is given up after a failed sync of %s: %s", name, err.Error()) // what it was concerns that file only
		return err
	}
	return s.failed
}

// settle waits for the syncs that have begun, and returns the first failure of any: one that has failed and was not noticed yet may
// have cost what a later one seemed to make durable.
func (s *failStop) settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for last := s.began; s.older(last); {
		s.ended.Wait()
	}
	return s.failed
}

// older tells whether a sync up to the nth is still running. s.mu is held.
func (s *failStop) older(n uint64) bool {
	for k := range s.flying {
		if k <= n {
			return true
		}
	}
	return false
}

func (s *failStop) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *failStop) file(name string, f disk.File, err error) (disk.File, error) {
	if err != nil {
		return nil, err
	}
	return &failStopFile{File: f, fs: s, name: name}, nil
}

// Create makes nothing new after a failure.
func (s *failStop) Create(name string, c vfs.DiskWriteCategory) (disk.File, error) {
	if err := s.failure(); err != nil {
		time.Sleep(retryPause)
		return nil, &os.PathError{Op: "create", Path: name, Err: err}
	}
	f, err := s.FS.Create(name, c)
	return s.file(name, f, err)
}

func (s *failStop) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (disk.File, error) {
	f, err := s.FS.OpenReadWrite(name, c, opts...)
	return s.file(name, f, err)
}

func (s *failStop) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (disk.File, error) {
	f, err := s.FS.ReuseForWrite(from, to, c)
	return s.file(to, f, err)
}

func (s *failStop) OpenDir(name string) (disk.File, error) {
	f, err := s.FS.OpenDir(name)
	return s.file(name, f, err)
}

func (s *failStop) Unwrap() disk.FS { return s.FS }

type failStopFile struct {
	disk.File
	fs   *failStop
	name string
}

func (f *failStopFile) Sync() error     { return f.fs.sync(f.name, f.File.Sync) }
func (f *failStopFile) SyncData() error { return f.fs.sync(f.name, f.File.SyncData) }

// SyncTo begins to write pages back; where it does more, it says so.
func (f *failStopFile) SyncTo(n int64) (full bool, err error) {
	err = f.fs.sync(f.name, func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}

func (f *failStopFile) DropCache(off, n int64) error { return disk.DropCache(f.File, off, n) }

func (f *failStopFile) PunchHole(off, n int64) error { return disk.PunchHole(f.File, off, n) }
