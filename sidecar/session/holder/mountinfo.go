package holder

import "github.com/moby/sys/mountinfo"

// fsType is what mountinfo shows for every mount of this package.
const fsType = "fuse.remora"

// mountEntry is what one line of mountinfo says about a mount (proc_pid_mountinfo(5)).
type mountEntry struct {
	point string // resolved path of the mount point
	fs    string // type, with subtype
	minor uint32 // of st_dev; for FUSE also the number of the connection in fusectl
}

// mounts lists the mounts of this mount namespace in the kernel's order: of two on one path, the upper one comes later.
func mounts() ([]mountEntry, error) {
	table, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	entries := make([]mountEntry, 0, len(table))
	for _, m := range table {
		entries = append(entries, mountEntry{point: m.Mountpoint, fs: m.FSType, minor: uint32(m.Minor)})
	}
	return entries, nil
}

// topmost returns the mount that a path lookup of point ends in, if point is a mount point.
func topmost(point string) (entry mountEntry, found bool, err error) {
	entries, err := mounts()
	if err != nil {
		return mountEntry{}, false, err
	}
	for _, e := range entries {
		if e.point == point {
			entry, found = e, true
		}
	}
	return entry, found, nil
}
