package sidecar

import (
	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
)

// groupMode is what kubelet gives the root of a volume of a pod with fsGroup: the group may write, and what is made in it belongs to the
// group.
const groupMode = 0o2070

// giveToGroup makes the root of a volume the group's, if it is another's: a pod's fsGroup. It does so before the first request is read, so
// the kernel has nothing in its cache that it would have to forget. What is in the volume stays as it is; kubelet's policy OnRootMismatch
// does the same from the second time on. Group 0 is no group.
func giveToGroup(fs *cachefs.FS, group uint32) error {
	if group == 0 {
		return nil
	}
	root, err := fs.Attr(meta.Root)
	if err != nil || root.GID == group {
		return err
	}
	mode := root.Mode | groupMode
	_, err = fs.SetAttr(&cachefs.Caller{}, meta.Root, cachefs.SetAttr{GID: &group, Mode: &mode})
	return err
}
