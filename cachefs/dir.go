package cachefs

import (
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// Cookies of the two entries that every directory has.
const (
	cookieDot    = 1
	cookieDotDot = 2
)

// ReadDir calls visit for the entries behind a cookie (0: from the start) until it returns false. Entries are listed in the order in
// which they were made, by durable cookies that are never given twice: a name that is there during the whole listing is seen
// exactly once, whatever comes and goes meanwhile, and also across a change of the process. A rename within the directory keeps the
// cookie, and one over another name takes that name's, so a listing ends although all that it shows is renamed. visit must not call
// into fs.
func (fs *FS) ReadDir(ino meta.Ino, after uint64, visit func(meta.CookieEntry) bool) error {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	in, err := fs.inode(ino)
	if err != nil {
		return err
	}
	if in.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return syscall.ENOTDIR
	}
	for _, e := range []meta.CookieEntry{
		{Cookie: cookieDot, Ino: ino, Type: syscall.DT_DIR, Name: "."},
		{Cookie: cookieDotDot, Ino: in.Parent, Type: syscall.DT_DIR, Name: ".."},
	} {
		if after < e.Cookie && !visit(e) {
			return nil
		}
	}
	lower, upper := meta.CookieKey(ino, after+1), meta.CookieKey(ino+1, 0)
	return fs.scan(lower, upper, func(key, value []byte) (bool, error) {
		e, err := meta.DecodeCookieEntry(key, value)
		return err == nil && visit(e), err
	})
}

// ReadDirAttr is ReadDir with the attributes of each entry (readdirplus). Entries whose inode was removed meanwhile have none.
func (fs *FS) ReadDirAttr(ino meta.Ino, after uint64, visit func(meta.CookieEntry, *Attr) bool) error {
	var errInner error
	err := fs.ReadDir(ino, after, func(e meta.CookieEntry) bool {
		if e.Cookie <= cookieDotDot {
			return visit(e, nil)
		}
		in, err := fs.inode(e.Ino)
		if err != nil {
			errInner = err
			return false
		}
		return visit(e, &Attr{e.Ino, in})
	})
	if err == nil {
		err = errInner
	}
	return err
}
