package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// peerNodes are the nodes that `remora dev` gives to the replicas beside the pod's: it numbers them.
var peerNodes = []string{"node-1", "node-2"}

// mountPeers puts the peers' disks on file systems in memory, so that their flushes cost the owner's disk nothing: as if each had its own.
func (b *bench) mountPeers() error {
	if b.cfg.Peers != "tmpfs" {
		return nil
	}
	for _, dir := range b.peerDirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil { // user postgres passes through the folders above
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=6g,mode=0700"); err != nil {
			return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
		}
	}
	return nil
}

// peerDirs are those of the volume's peers, and of the bare program's.
func (b *bench) peerDirs() []string {
	dirs := []string{b.bareDir(0), b.bareDir(1)}
	for _, node := range peerNodes {
		dirs = append(dirs, filepath.Join(b.dir, "remora", "nodes", node))
	}
	return dirs
}

// unmountPeers is called when nobody uses them any more.
func (b *bench) unmountPeers() error {
	if b.cfg.Peers != "tmpfs" {
		return nil
	}
	var errs []error
	for _, dir := range b.peerDirs() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
