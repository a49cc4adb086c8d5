package store

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/remora-storage/remora/disk"
)

// patience is how long a call that met a full disk waits before it tries again.
const patience = 20 * time.Millisecond

// patient is an FS on which whoever meets a full disk waits for space: what is applied is acknowledged, so there is no way back, and
// Pebble ends the process when its MANIFEST cannot be written. Nothing is lost by another try, because a write that found no
// space was refused before it changed anything but the space that it could get. A sync is never tried again (I8), and what is
// not about space is passed on. Until Open is done, and after Close, nobody waits.
type patient struct {
	disk.FS
	logger *slog.Logger
	onFull func() // may be nil

	waiting atomic.Int32
	mu      sync.Mutex
	waits   chan struct{} // closed when nobody waits any more; nil: not yet open
}

func (p *patient) open() {
	p.mu.Lock()
	p.waits = make(chan struct{})
	p.mu.Unlock()
}

// close lets those go who wait.
func (p *patient) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waits != nil && !p.closed() {
		close(p.waits)
	}
}

// closed tells whether close was called. p.mu must be held.
func (p *patient) closed() bool {
	select {
	case <-p.waits:
		return true
	default:
		return false
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// try calls op until it meets something else than a full disk.
func (p *patient) try(op func() error) error {
	err := op()
	if !isNoSpace(err) {
		return err
	}
	p.mu.Lock()
	waits := p.waits
	p.mu.Unlock()
	if waits == nil {
		return err
	}
	if p.waiting.Add(1) == 1 {
		p.logger.Warn("the disk is full: changes wait for space", "err", err)
	}
	if p.onFull != nil {
		p.onFull()
	}
	defer p.waiting.Add(-1)
	timer := time.NewTicker(patience)
	defer timer.Stop()
	for isNoSpace(err) {
		select {
		case <-waits:
			return err
		case <-timer.C:
			err = op()
		}
	}
	return err
}

func (p *patient) file(open func() (disk.File, error)) (disk.File, error) {
	var f disk.File
	err := p.try(func() (err error) {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &patientFile{f, p}, nil
}

func (p *patient) Create(name string, c disk.WriteCategory) (disk.File, error) {
	return p.file(func() (disk.File, error) { return p.FS.Create(name, c) })
}

func (p *patient) OpenReadWrite(name string, c disk.WriteCategory, opts ...disk.OpenOption) (disk.File, error) {
	return p.file(func() (disk.File, error) { return p.FS.OpenReadWrite(name, c, opts...) })
}

func (p *patient) ReuseForWrite(from, to string, c disk.WriteCategory) (disk.File, error) {
	return p.file(func() (disk.File, error) { return p.FS.ReuseForWrite(from, to, c) })
}

func (p *patient) Link(from, to string) error {
	return p.try(func() error { return p.FS.Link(from, to) })
}

func (p *patient) Rename(from, to string) error {
	return p.try(func() error { return p.FS.Rename(from, to) })
}

func (p *patient) MkdirAll(dir string, perm fs.FileMode) error {
	return p.try(func() error { return p.FS.MkdirAll(dir, perm) })
}

func (p *patient) Unwrap() disk.FS { return p.FS }

// patientFile is a file on a patient FS.
type patientFile struct {
	disk.File
	disk *patient
}

func (f *patientFile) Write(b []byte) (int, error) {
	done := 0
	err := f.disk.try(func() error {
		n, err := f.File.Write(b[done:])
		done += n
		return err
	})
	return done, err
}

func (f *patientFile) WriteAt(b []byte, off int64) (int, error) {
	done := 0
	err := f.disk.try(func() error {
		n, err := f.File.WriteAt(b[done:], off+int64(done))
		done += n
		return err
	})
	return done, err
}

func (f *patientFile) PunchHole(off, n int64) error {
	return f.disk.try(func() error { return disk.PunchHole(f.File, off, n) })
}

// Stalled tells whether what is applied waits for space on the disk.
func (s *Store) Stalled() bool { return s.disk.waiting.Load() > 0 }

// Freed tells whether Reclaim would give space back after a checkpoint.
func (s *Store) Freed() bool { return s.freed.Load() }

// MetadataBytes is the size of the metadata on the disk.
func (s *Store) MetadataBytes() int64 { return int64(s.db.Metrics().DiskSpaceUsage()) }

// Release lets go what waits for space, with an error: the store stops. Close comes after it.
func (s *Store) Release() { s.disk.close() }
