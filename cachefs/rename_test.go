package cachefs

import (
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
)

// listed lists the root one name at a time and calls do after each.
func listed(t *testing.T, fs *FS, do func(name string)) map[string]int {
	t.Helper()
	seen := map[string]int{}
	after, ended := uint64(cookieDotDot), false
	for n := 0; !ended; n++ {
		require.Less(t, n, 100, "the listing does not end: %v", seen)
		name := ""
		require.NoError(t, fs.ReadDir(meta.Root, after, func(e meta.CookieEntry) bool {
			name, after = e.Name, e.Cookie
			return false
		}))
		if ended = name == ""; !ended {
			seen[name]++
			do(name)
		}
	}
	return seen
}

// A listing ends although each name that it shows is renamed and renamed back, and it shows a name that is replaced meanwhile once.
func TestRenameKeepsItsPlace(t *testing.T) {
	log := &keptLog{}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Epoch: 1, Incarnation: 1, Session: 7, Size: 1 << 30,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	defer fs.Close()
	create := func(name string) {
		_, err := fs.Create(&Caller{}, meta.Root, name, Node{Mode: syscall.S_IFREG | 0o644})
		require.NoError(t, err)
	}
	rename := func(from, to string, flags uint32) {
		require.NoError(t, fs.Rename(&Caller{}, meta.Root, from, meta.Root, to, flags))
	}
	once := map[string]int{}
	for n := range 5 {
		create(fmt.Sprint("f", n))
		once[fmt.Sprint("f", n)] = 1
	}
	require.Equal(t, once, listed(t, fs, func(name string) {
		rename(name, "away", 0)
		rename("away", name, 0)
	}))
	require.Equal(t, once, listed(t, fs, func(name string) {
		if name == "f2" {
			for _, replaced := range []string{"f0", "f2", "f4"} {
				create("z")
				rename("z", replaced, 0)
			}
			rename("f1", "f3", RenameExchange)
		}
	}))
}
