package store

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/remora-storage/remora/disk"
)

// stopLimit is how long whoever is in Apply or Checkpoint has to come back after lastStop.
const stopLimit = 10 * time.Second

// listFailed stops the store. A commit that waits in Pebble for a flush would wait for ever: then the process ends after all.
func (s *Store) listFailed(err error) {
	_ = s.fail(fmt.Errorf("the list of metadata files cannot be written: look at the disk, then restart the pod; nothing acknowledged is lost: %w", err))
	time.AfterFunc(stopLimit, func() {
		if !s.applyMu.TryLock() {
			panic(fmt.Sprintf("metadata store: a change waits for a flush that cannot end: %v", err))
		}
		s.applyMu.Unlock()
	})
}

// lastStop is the FS below Pebble on which a failed change of its list of files is the last change of all. Pebble ends the process when it
// cannot write its MANIFEST, the marker that names it, or their directory, because it does not know then what is there, and has
// changed its own mind already. Here its Fatalf returns instead (see quiet), Pebble goes back with the error, and nothing that it does
// from then on reaches the disk: the files stay as the failed call left them, which is what the death of the process would leave, and
// the next Open knows how to read. Reads go on: the version that was not installed is not read, and what it should have flushed is
// still in memory.
type lastStop struct {
	disk.FS
	stop func(error) // called once

	mu     sync.Mutex
	failed error
	opened bool
}

// brake is how long a caller that tries for ever is kept from its next try.
const brake = 100 * time.Millisecond

// failure is whether Open was done, and the first failed change.
func (l *lastStop) failure() (opened bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opened, l.failed
}

// open is called when Pebble's Open is done.
func (l *lastStop) open() {
	l.mu.Lock()
	l.opened = true
	l.mu.Unlock()
}

// listed tells whether a name is one that Pebble cannot do without.
func listed(name string) bool {
	base := filepath.Base(name)
	return strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

// change runs a call that changes something.
func (l *lastStop) change(last bool, call func() error) error {
	if _, err := l.failure(); err != nil {
		return err
	}
	err := call()
	if err == nil || !last {
		return err
	}
	l.mu.Lock()
	first := l.failed == nil
	if first {
		l.failed = err
	}
	l.mu.Unlock()
	if first {
		l.stop(err)
	}
	return err
}

func (l *lastStop) file(name string, open func() (disk.File, error)) (f disk.File, err error) {
	if _, failed := l.failure(); failed != nil {
		time.Sleep(brake)
	}
	err = l.change(listed(name), func() (err error) {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &lastStopFile{File: f, fs: l, last: listed(name)}, nil
}

func (l *lastStop) Create(name string, c disk.WriteCategory) (disk.File, error) {
	return l.file(name, func() (disk.File, error) { return l.FS.Create(name, c) })
}

func (l *lastStop) OpenReadWrite(name string, c disk.WriteCategory, opts ...disk.OpenOption) (disk.File, error) {
	return l.file(name, func() (disk.File, error) { return l.FS.OpenReadWrite(name, c, opts...) })
}

func (l *lastStop) ReuseForWrite(from, to string, c disk.WriteCategory) (disk.File, error) {
	return l.file(to, func() (disk.File, error) { return l.FS.ReuseForWrite(from, to, c) })
}

// OpenDir is for the sync of names, which the list of files needs, whichever they are.
func (l *lastStop) OpenDir(name string) (disk.File, error) {
	f, err := l.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &lastStopFile{File: f, fs: l, last: true}, nil
}

func (l *lastStop) Link(from, to string) error {
	return l.change(listed(to), func() error { return l.FS.Link(from, to) })
}

func (l *lastStop) Rename(from, to string) error {
	return l.change(listed(to), func() error { return l.FS.Rename(from, to) })
}

// Remove fails for what is no longer needed only.
func (l *lastStop) Remove(name string) error {
	return l.change(false, func() error { return l.FS.Remove(name) })
}

func (l *lastStop) MkdirAll(dir string, perm fs.FileMode) error {
	return l.change(false, func() error { return l.FS.MkdirAll(dir, perm) })
}

func (l *lastStop) Unwrap() disk.FS { return l.FS }

type lastStopFile struct {
	disk.File
	fs   *lastStop
	last bool
}

func (f *lastStopFile) Write(b []byte) (n int, err error) {
	err = f.fs.change(f.last, func() (err error) {
		n, err = f.File.Write(b)
		return err
	})
	return n, err
}

func (f *lastStopFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.fs.change(f.last, func() (err error) {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	return n, err
}

func (f *lastStopFile) Sync() error     { return f.fs.change(f.last, f.File.Sync) }
func (f *lastStopFile) SyncData() error { return f.fs.change(f.last, f.File.SyncData) }

func (f *lastStopFile) SyncTo(n int64) (full bool, err error) {
	err = f.fs.change(f.last, func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}
