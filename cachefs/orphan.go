package cachefs

import (
	"errors"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// Remembered counts a reference that the kernel was given by an answer (LOOKUP, CREATE, LINK, READDIRPLUS).
func (fs *FS) Remembered(ino meta.Ino) {
	fs.lookupMu.Lock()
	fs.lookups[ino]++
	fs.lookupMu.Unlock()
}

// Forget gives back n references of the kernel. When none is left, an inode without a name is removed.
//
// The counts die with a process, and the kernel's do not: to the next process everything starts at 0, and a Forget for more than it
// knows may be the last one; TookOver says whom to ask. A Forget that was queued before the kernel looked the inode up again is for
// fewer than we know.
func (fs *FS) Forget(ino meta.Ino, n uint64) {
	fs.lookupMu.Lock()
	left := fs.lookups[ino]
	if left > n {
		fs.lookups[ino] = left - n
		fs.lookupMu.Unlock()
		return
	}
	delete(fs.lookups, ino)
	fs.lookupMu.Unlock()
	fs.mu.RLock()
	in, err := fs.inode(ino)
	fs.mu.RUnlock()
	if err == nil && in.Nlink == 0 {
		fs.reap <- ino
	}
}

// TookOver says that the kernel knows inodes that another process told it, and how to ask whether it still knows one. It is called
// before the first request is served. Unlinked files that the kernel does not know any more are removed in the background: a FORGET
// has no answer, so one that the other process had read is lost with it. known may wait for requests to be served.
func (fs *FS) TookOver(known func(meta.Ino) bool) {
	fs.lookupMu.Lock()
	fs.known = known
	fs.lookupMu.Unlock()
	fs.reaped.Go(func() {
		orphans, err := fs.orphans()
		if err != nil {
			fs.cfg.Logger.Error("unlinked files cannot be listed; the next process will try again", "err", err)
		}
		for ino, kind := range orphans {
			if kind == meta.OrphanUnlinked && !fs.closing.Load() {
				fs.reapOne(ino)
			}
		}
	})
}

// reaper removes orphans that the kernel has forgotten, until Close.
func (fs *FS) reaper() {
	defer fs.reaped.Done()
	for ino := range fs.reap {
		fs.reapOne(ino)
	}
}

func (fs *FS) reapOne(ino meta.Ino) {
	fs.lookupMu.Lock()
	known := fs.known
	fs.lookupMu.Unlock()
	if known != nil && known(ino) {
		return // it will forget it later
	}
	if err := fs.removeOrphan(ino); err != nil {
		fs.cfg.Logger.Error("unlinked file not removed; the next process will", "inode", ino, "err", err)
	}
}

func (fs *FS) removeOrphan(ino meta.Ino) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.inode(ino)
	if errors.Is(err, syscall.ESTALE) || err == nil && in.Nlink > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fs.freeBehind(ino, true)
	return err
}

// finishOrphans ends what another process began: truncations always, removals only of another session, because files of this one
// may still be open.
func (fs *FS) finishOrphans() error {
	kinds, err := fs.orphans()
	if err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for ino, kind := range kinds {
		if kind == meta.OrphanUnlinked && !fs.cfg.NewSession {
			continue
		}
		if _, err := fs.freeBehind(ino, kind == meta.OrphanUnlinked); err != nil {
			return err
		}
	}
	return nil
}

// orphans lists what is to be removed or cut.
func (fs *FS) orphans() (map[meta.Ino]meta.OrphanKind, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	kinds := map[meta.Ino]meta.OrphanKind{}
	lower, upper := meta.OrphanRange()
	err := fs.scan(lower, upper, func(key, value []byte) (bool, error) {
		if len(value) == 1 {
			kinds[meta.OrphanIno(key)] = meta.OrphanKind(value[0])
		}
		return true, nil
	})
	return kinds, err
}
