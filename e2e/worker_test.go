package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/e2e/supervisor"
)

// workers work on the mount, and the tests do not.
func workers() supervisor.Workers {
	return supervisor.Workers{
		"append":           appendRecords,
		"big-writes":       rounds(writeMuch),
		"call":             makeUnansweredCall,
		"check-1g":         checkGib,
		"compare":          compare,
		"compare-change":   doChange,
		"compare-harmless": doHarmless,
		"conformance":      conform,
		"describe":         describe,
		"differences":      differences,
		"fill-bytes":       fillBytes,
		"fill-inodes":      fillInodes,
		"flock":            holdLock,
		"getdents":         rounds(getDents),
		"handles":          rounds(useHandles),
		"large-directory":  largeDirectory,
		"ledger":           keepLedger,
		"list":             listWhileItChanges,
		"lsm":              runLSM,
		"many-open":        manyOpen,
		"map":              writeByMap,
		"maps":             rounds(mapMuch),
		"names":            changeNames,
		"permissions":      tryPermissions,
		"probe":            probe,
		"random":           randomIO,
		"sgid":             trySetGroupID,
		"silence":          killBeforeAnswer,
		"stream":           streamFiles,
		"syncs":            rounds(syncMuch),
		"tree":             makeTree,
		"unlinked":         useUnlinked,
		"write-1g":         writeGib,
		"writesync":        writeAndSync,
	}
}

var stdin = bufio.NewReader(os.Stdin)

// say tells the test how far the worker is, and waits for the word to go on.
func say(line string) error {
	fmt.Println(line)
	if _, err := stdin.ReadString('\n'); err != nil {
		return fmt.Errorf("waiting after %q: %w", line, err)
	}
	return nil
}

// check returns an error with the text unless ok.
func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// wantErr returns an error unless err is the wanted one.
func wantErr(err, want error, what string) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("%s: got %v, want %v", what, err, want)
}

// printInode prints the inode number of an open file.
func printInode(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	fmt.Println(st.Ino)
	return nil
}
