package holder

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

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
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

func parseMountinfo(r io.Reader) ([]mountEntry, error) {
	var entries []mountEntry
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		entry, err := parseMountinfoLine(lines.Text())
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, lines.Err()
}

// parseMountinfoLine reads "ID parent major:minor root point options [optional...] - type source options".
func parseMountinfoLine(line string) (mountEntry, error) {
	before, after, found := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !found || len(left) < 6 || len(right) < 1 {
		return mountEntry{}, fmt.Errorf("mountinfo: cannot read line %q", line)
	}
	_, number, _ := strings.Cut(left[2], ":")
	minor, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return mountEntry{}, fmt.Errorf("mountinfo: device %q: %w", left[2], err)
	}
	return mountEntry{point: unescape(left[4]), fs: right[0], minor: uint32(minor)}, nil
}

// unescape undoes the kernel's octal escapes of blank, tab, newline, backslash and '#'.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
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
