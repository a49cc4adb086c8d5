package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is where and with what a run was made.
type Host struct {
	Kernel     string  `json:"kernel"`
	CPUs       int     `json:"cpus"`
	MemoryGiB  float64 `json:"memoryGiB"`
	FileSystem string  `json:"fileSystem"` // of the plain directory
	Device     string  `json:"device"`
	Go         string  `json:"go"`
	Fio        string  `json:"fio"`
	Remora     string  `json:"remora"` // commit of the checkout
}

func (h Host) String() string {
	return fmt.Sprintf("Linux %s, %d CPUs, %.0f GiB, %s on %s, %s, %s, remora %s", h.Kernel, h.CPUs, h.MemoryGiB, h.FileSystem,
		h.Device, h.Go, h.Fio, h.Remora)
}

// describe begins the report.
func (b *bench) describe(ctx context.Context) (*Report, error) {
	host, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	return &Report{
		Started: time.Now(), Command: append([]string{"bench"}, b.cfg.Args...), Host: host,
		Rounds: b.cfg.Rounds, Seconds: b.cfg.Timed.Seconds(), Cache: cacheNote(),
		Sides:  [2]string{b.sides[0].name, b.sides[1].name},
		Memory: map[string]float64{}, Samples: map[string][]sample{}, Failures: []string{},
		workloads: chosen(b.cfg),
	}, nil
}

func (b *bench) host(ctx context.Context) (Host, error) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return Host{}, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Host{}, err
	}
	h := Host{
		Kernel: unix.ByteSliceToString(uname.Release[:]), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		MemoryGiB: float64(info.Totalram) * float64(info.Unit) / (1 << 30),
		Remora:    b.version(ctx),
	}
	fio, err := b.run(ctx, 10*time.Second, exec.Command("fio", "--version"))
	if err != nil {
		return Host{}, err
	}
	h.Fio = strings.TrimSpace(string(fio))
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Host{}, err
	}
	h.FileSystem, h.Device = diskOf(string(table), b.sides[0].dir)
	if h.FileSystem == "tmpfs" {
		b.logf("WARNING: %s is memory, not a disk; choose another place with -dir", b.dir)
	}
	return h, nil
}

// version is the commit of the checkout that bench runs in, "unknown" outside of one.
func (b *bench) version(ctx context.Context) string {
	out, err := b.run(ctx, 10*time.Second, exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12"))
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// diskOf is the file system and device of the mount that dir is in: the longest mount point that is a prefix of it, the last
// one where several are stacked. Paths are escaped there with \ooo; see proc_pid_mountinfo(5).
func diskOf(table, dir string) (fileSystem, device string) {
	longest := -1
	for line := range strings.Lines(table) {
		before, after, ok := strings.Cut(line, " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(source) < 2 {
			continue
		}
		point := unescape(fields[4])
		inside := point == "/" || dir == point || strings.HasPrefix(dir, point+"/")
		if inside && len(point) >= longest {
			longest, fileSystem, device = len(point), source[0], source[1]
		}
	}
	return fileSystem, device
}

func unescape(s string) string {
	for i := 0; i+3 < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
			s = s[:i] + string(rune(n)) + s[i+4:]
		}
	}
	return s
}
