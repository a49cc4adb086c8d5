package cachefs

import (
	"errors"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// Remembered counts a reference that an answer gave (LOOKUP, CREATE, LINK, READDIRPLUS), where nobody can be asked.
func (fs *FS) Remembered(ino meta.Ino) {
	fs.lookupMu.Lock()
	if fs.known == nil {
		fs.lookups[ino]++
	}
	fs.lookupMu.Unlock()
}

// Forget gives back n references of the kernel. When none is left, an inode without a name is removed.
//
// The kernel's counts are not kept here, since it can be asked (AskKernel): they would be memory for each file that it knows, they
// would die with a process, and a Forget that was queued before the kernel looked the inode up again is not the last one.
func (fs *FS) Forget(ino meta.Ino, n uint64) {
	fs.lookupMu.Lock()
	left := fs.lookups[ino]
	if left > n {
		fs.lookups[ino] = left - n
		fs.lookupMu.Unlock()
		return
	}
	delete(fs.lookups, ino)
	nameless := fs.nameless[ino]
	fs.lookupMu.Unlock()
	if nameless {
		fs.reap <- ino
	}
}

// named notes whether an inode has a name. Inodes without one go when the kernel forgets them.
func (fs *FS) named(ino meta.Ino, has bool) {
	fs.lookupMu.Lock()
	defer fs.lookupMu.Unlock()
	if has {
		delete(fs.nameless, ino)
	} else {
		fs.nameless[ino] = true
	}
}

// AskKernel says how to ask the kernel whether it knows an inode. It is called before the first request is served. known may wait for
// requests to be served.
func (fs *FS) AskKernel(known func(meta.Ino) bool) {
	fs.lookupMu.Lock()
	fs.known = known
	fs.lookupMu.Unlock()
}

// TookOver is AskKernel where the kernel knows inodes that another process told it. Unlinked files that it does not know any more are
// removed in the background: a FORGET has no answer, so one that the other process had read is lost with it.
func (fs *FS) TookOver(known func(meta.Ino) bool) {
	fs.AskKernel(known)
	orphans, err := fs.orphans()
	if err != nil {
		fs.cfg.Logger.Error("unlinked files cannot be listed; the next process will try again", "err", err)
	}
	for ino, kind := range orphans {
		if kind == meta.OrphanUnlinked {
			fs.named(ino, false)
		}
	}
	fs.reaped.Go(func() {
		for ino, kind := range orphans {
			if kind == meta.OrphanUnlinked && !fs.closing.Load() {
				fs.reapOne(ino)
			}
		}
	})
}

// reaper removes orphans that the kernel has forgotten, until Close. What finds no space on the disk is tried again.
func (fs *FS) reaper() {
	defer fs.reaped.Done()
	for {
		select {
		case ino, ok := <-fs.reap:
			if !ok {
				return
			}
			fs.reapOne(ino)
		case <-fs.retry.C:
			for ino, remove := range fs.takeLate() {
				if remove {
					fs.reapOne(ino)
				} else {
					fs.cutOne(ino)
				}
			}
		}
	}
}

// later has a file cut, or removed, that could not be now for want of space on the disk: what it frees may be what others wait for.
func (fs *FS) later(ino meta.Ino, remove bool) {
	fs.lookupMu.Lock()
	defer fs.lookupMu.Unlock()
	fs.late[ino] = fs.late[ino] || remove
	fs.retry.Reset(fs.cfg.RetryAfter)
}

func (fs *FS) takeLate() map[meta.Ino]bool {
	fs.lookupMu.Lock()
	defer fs.lookupMu.Unlock()
	late := fs.late
	fs.late = map[meta.Ino]bool{}
	return late
}

// cutOne ends a truncation.
func (fs *FS) cutOne(ino meta.Ino) {
	fs.mu.Lock()
	err := fs.endTruncate(ino)
	fs.mu.Unlock()
	fs.reaping(ino, false, err)
}

// reapOne removes an inode that has no name, unless the kernel knows it.
func (fs *FS) reapOne(ino meta.Ino) {
	fs.lookupMu.Lock()
	known := fs.known
	fs.lookupMu.Unlock()
	if known != nil && known(ino) {
		return // it will forget it later
	}
	fs.reaping(ino, true, fs.removeOrphan(ino))
}

// reaping takes the result of what is done in the background.
func (fs *FS) reaping(ino meta.Ino, remove bool, err error) {
	switch {
	case err == nil, errors.Is(err, syscall.ESTALE):
	case errors.Is(err, syscall.ENOSPC):
		fs.later(ino, remove)
	default:
		fs.cfg.Logger.Error("an unlinked or truncated file keeps its space until the next process", "inode", ino, "err", err)
	}
}

func (fs *FS) removeOrphan(ino meta.Ino) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.inode(ino)
	if err != nil || in.Nlink > 0 {
		return err
	}
	if _, err = fs.freeBehind(ino, true); err == nil {
		delete(fs.unfinished, ino)
	}
	return err
}

// beforeGrowth returns the inode of a file that may be about to be larger: with nothing behind its end. fs.mu must be held.
func (fs *FS) beforeGrowth(ino meta.Ino, in meta.Inode, size uint64) (meta.Inode, error) {
	if size <= in.Size || !fs.unfinished[ino] {
		return in, nil
	}
	if err := fs.endTruncate(ino); err != nil {
		return in, err
	}
	return fs.inode(ino)
}

// endTruncate frees what an unfinished truncation has left behind the end of a file. fs.mu must be held.
func (fs *FS) endTruncate(ino meta.Ino) error {
	if !fs.unfinished[ino] {
		return nil
	}
	_, err := fs.freeBehind(ino, false)
	if err == nil {
		delete(fs.unfinished, ino)
	}
	return err
}

// finishOrphans ends what another process began: truncations always, removals only of another session, because files of this one
// may still be open. What finds no space is ended later.
func (fs *FS) finishOrphans() error {
	kinds, err := fs.orphans()
	if err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for ino, kind := range kinds {
		remove := kind == meta.OrphanUnlinked && fs.cfg.NewSession
		if !remove {
			if kind == meta.OrphanUnlinked {
				if tail, err := fs.tail(ino); err != nil {
					return err
				} else if !tail {
					continue
				}
			}
			fs.unfinished[ino] = true
		}
		_, err := fs.freeBehind(ino, remove)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			fs.later(ino, remove)
		case err != nil:
			return err
		default:
			delete(fs.unfinished, ino)
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
