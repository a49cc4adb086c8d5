package sidecar

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/remora-storage/remora/disk"
)

// What an owner has answered and the group has not accepted is in its replica's journal. Where the next owner has another replica, that is
// gone, and the session's programs hold answers that are not true any more. So each replica has a file that names the session whose programs
// its owner has answered (diskdir/FORMAT.md): it is written before the first answer.

const sessionFile = "session"

// answeredElsewhere tells that an owner with another replica has answered programs of this session. Replicas of older versions have no such
// file: they are taken for the right ones.
func (v *volume) answeredElsewhere() (bool, error) {
	if v.hosted == nil {
		return false, nil
	}
	have, err := readSession(v.s.cfg.fs, v.hosted.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return have != sessionName(v.client.SessionID), err
}

// noteSession names the session in the replica.
func (v *volume) noteSession() error {
	if v.hosted == nil {
		return nil
	}
	name := sessionName(v.client.SessionID)
	if have, err := readSession(v.s.cfg.fs, v.hosted.path); err == nil && have == name {
		return nil
	}
	return writeSession(v.s.cfg.fs, v.hosted.path, name)
}

func sessionName(id uint64) string { return fmt.Sprintf("%016x", id) }

func readSession(fs disk.FS, replica string) (string, error) {
	f, err := fs.Open(filepath.Join(replica, sessionFile))
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return strings.TrimSpace(string(b)), errors.Join(err, f.Close())
}

// writeSession replaces the file, durably.
func writeSession(fs disk.FS, replica, session string) error {
	path := filepath.Join(replica, sessionFile)
	f, err := fs.Create(path+".new", disk.Category)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(session + "\n"))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(path+".new", path); err != nil {
		return err
	}
	return disk.SyncDir(fs, replica)
}
