package floor

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const headerSize = 64 // of a record

// journal is a file of zeros that is written from its start to its end, and again.
type journal struct {
	fd   int
	size int64
	zero [headerSize]byte

	mu      sync.Mutex
	turn    sync.Cond // a sync is over
	offset  int64     // in the file
	written int64     // ever
	synced  int64
	syncing bool
	failed  error
}

func openJournal(path string, size int64) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for range size / int64(len(zeros)) {
		if _, err := f.Write(zeros); err != nil {
			return nil, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	fd, err := unix.Dup(int(f.Fd()))
	j := &journal{fd: fd, size: size}
	j.turn.L = &j.mu
	return j, joinClose(err, f)
}

func joinClose(err error, f *os.File) error {
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// append writes a record, as one write.
func (j *journal) append(content []byte) error {
	n := int64(headerSize + len(content))
	j.mu.Lock()
	if j.offset+n > j.size {
		j.offset = 0
	}
	at := j.offset
	j.offset += n
	j.written += n
	j.mu.Unlock()
	_, err := unix.Pwritev(j.fd, [][]byte{j.zero[:], content}, at)
	return err
}

// sync waits until all that was appended before is on the disk. Whoever comes first does it for all.
func (j *journal) sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for want := j.written; j.synced < want && j.failed == nil; {
		if j.syncing {
			j.turn.Wait()
			continue
		}
		j.syncing = true
		end := j.written
		j.mu.Unlock()
		err := syscall.Fdatasync(j.fd)
		j.mu.Lock()
		j.syncing = false
		if err != nil {
			j.failed = err // never tried again
		} else {
			j.synced = end
		}
		j.turn.Broadcast()
	}
	return j.failed
}
