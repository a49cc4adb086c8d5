package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// capability is the value of a security.capability that allows cap_net_bind_service.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// changes are what may take suid, sgid and capabilities away, and what must not. Not among them: chown(-1, -1), which Linux does not pass
// on to FUSE servers.
var changes = map[string]func(path string) error{
	"write": func(p string) error {
		return onFile(p, 0, func(fd int) error { return errOf(unix.Write(fd, []byte("x"))) })
	},
	"write 0": func(p string) error { return onFile(p, 0, func(fd int) error { return errOf(unix.Write(fd, nil)) }) },
	"append": func(p string) error {
		return onFile(p, unix.O_APPEND, func(fd int) error { return errOf(unix.Write(fd, []byte("x"))) })
	},
	"direct": func(p string) error {
		return onFile(p, unix.O_DIRECT, func(fd int) error { return errOf(unix.Pwrite(fd, aligned(4096), 0)) })
	},
	"ftruncate":     func(p string) error { return onFile(p, 0, func(fd int) error { return unix.Ftruncate(fd, 1) }) },
	"same size":     func(p string) error { return onFile(p, 0, func(fd int) error { return unix.Ftruncate(fd, 10000) }) },
	"truncate":      func(p string) error { return unix.Truncate(p, 20000) },
	"same, by name": func(p string) error { return unix.Truncate(p, 10000) },
	"open trunc":    func(p string) error { return onFile(p, unix.O_TRUNC, func(int) error { return nil }) },
	"open":          func(p string) error { return onFile(p, 0, func(int) error { return nil }) },
	"allocate": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Fallocate(fd, 0, 0, 20000) })
	},
	"keep size": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1) })
	},
	"punch": func(p string) error {
		return onFile(p, 0, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 5000)
		})
	},
	"zero": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 50000) })
	},
	"copy to":  func(p string) error { return onFile(p, 0, func(fd int) error { return copyOver(p, fd) }) },
	"map":      func(p string) error { return onFile(p, 0, mapAndChange) },
	"chmod":    func(p string) error { return unix.Chmod(p, 0o6711) },
	"chown":    func(p string) error { return unix.Chown(p, os.Getuid(), os.Getgid()) },
	"chgrp":    func(p string) error { return unix.Chown(p, -1, os.Getgid()) },
	"utimes":   func(p string) error { return os.Chtimes(p, time.Unix(1, 0), time.Unix(2, 0)) },
	"setxattr": func(p string) error { return unix.Setxattr(p, "user.x", []byte("1"), 0) },
	"link":     func(p string) error { return unix.Link(p, p+".link") },
	"rename":   func(p string) error { return unix.Rename(p, p) },
	"read":     func(p string) error { return errOf(os.ReadFile(p)) },
}

func onFile(path string, flags int, do func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDWR|flags, 0)
	if err != nil {
		return err
	}
	if err := do(fd); err != nil {
		return err
	}
	return unix.Close(fd)
}

func aligned(n int) []byte {
	return must(unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE))
}

func copyOver(path string, fd int) error {
	off, toOff := int64(5000), int64(0)
	return errOf(unix.CopyFileRange(must(unix.Open(path, unix.O_RDONLY, 0)), &off, fd, &toOff, 1000, 0))
}

func mapAndChange(fd int) error {
	b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	b[0]++
	return unix.Msync(b, unix.MS_SYNC)
}

// doChange takes CHANGE PATH, does it and prints what the file is then; run by some user.
func doChange(args []string) error {
	err := changes[args[0]](args[1])
	(&comparer{}).say(args[0], err)
	return nil
}

// privileges: what each change leaves of a file's suid and sgid bits and its capabilities.
func (c *comparer) privileges() {
	cases := []struct {
		mode     uint32
		uid, gid int
	}{{0o6755, 0, 0}, {0o6755, 1001, 1001}, {0o6745, 1001, 1001}, {0o6777, 1002, 1001}, {0o2766, 1002, 1002}}
	for _, change := range slices.Sorted(keysOf(changes)) {
		for _, t := range cases {
			for _, withCap := range []bool{false, true} {
				path := c.in("f")
				mustDo(os.WriteFile(path, pattern(10000), 0o600))
				mustDo(os.Chown(path, 1001, 1001))
				mustDo(unix.Chmod(path, t.mode))
				if withCap {
					mustDo(unix.Setxattr(path, "security.capability", []byte(capability), 0))
				}
				cmd := exec.Command("/proc/self/exe", "worker", "compare-change", change, path)
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(t.uid), Gid: uint32(t.gid), Groups: []uint32{}}}
				out, err := cmd.CombinedOutput()
				var st unix.Stat_t
				mustDo(unix.Stat(path, &st))
				left, _ := unix.Getxattr(path, "security.capability", make([]byte, 100))
				c.say(fmt.Sprintf("%o %d:%d %v", t.mode, t.uid, t.gid, withCap), strings.TrimSpace(string(out)), err, fmt.Sprintf("%o", st.Mode), left)
				mustDo(os.Remove(path))
				_ = os.Remove(path + ".link")
			}
		}
	}
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// harmless are changes that leave a program as it was, but for bytes behind its end.
var harmless = map[string]func(path string) error{
	"append": changes["append"],
	"write the same": func(p string) error {
		return onFile(p, 0, func(fd int) error { return errOf(unix.Pwrite(fd, must(os.ReadFile(p))[:5000], 0)) })
	},
	"allocate": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Fallocate(fd, 0, must(unix.Seek(fd, 0, 2)), 10) })
	},
	"longer": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Ftruncate(fd, 1+must(unix.Seek(fd, 0, 2))) })
	},
	"copy to the end": func(p string) error {
		off := int64(0)
		return onFile(p, 0, func(fd int) error {
			end := must(unix.Seek(fd, 0, 2))
			return errOf(unix.CopyFileRange(must(unix.Open(p, unix.O_RDONLY, 0)), &off, fd, &end, 10, 0))
		})
	},
}

// setuid: who a set-user-ID program runs as after somebody else has changed it, before anybody has looked at its mode again.
func (c *comparer) setuid() {
	id := must(os.ReadFile("/usr/bin/id"))
	run := func(uid uint32, program string, args ...string) string {
		cmd := exec.Command(program, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}}}
		out, err := cmd.CombinedOutput()
		return fmt.Sprint(strings.TrimSpace(string(out)), " ", err)
	}
	for _, change := range slices.Sorted(keysOf(harmless)) {
		path := c.in("id")
		mustDo(os.WriteFile(path, id, 0o755))
		mustDo(os.Chown(path, 1001, 1001))
		mustDo(unix.Chmod(path, 0o4777))
		before := run(1003, path, "-u")
		done := run(1002, "/proc/self/exe", "worker", "compare-harmless", change, path)
		c.say(change, before, done, run(1003, path, "-u"))
		mustDo(os.Remove(path))
	}
}

func doHarmless(args []string) error { return harmless[args[0]](args[1]) }
