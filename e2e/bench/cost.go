package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cost is what the sidecars of a volume have spent since they started.
type cost struct {
	pids    []int
	cpu     time.Duration
	written int64 // bytes that they caused to be written to the disk
}

// spent reads it; a side without sidecars spends nothing, and so does one whose sidecar is just being restarted.
func (b *bench) spent(ctx context.Context, s side) cost {
	if s.sidecars == nil {
		return cost{}
	}
	pids, err := s.sidecars(ctx)
	if err != nil {
		b.logf("cost: %v", err)
		return cost{}
	}
	sum := cost{pids: pids}
	for _, pid := range pids {
		cpu, err := cpuTime(pid)
		written, ioErr := procNumber(pid, "io", "write_bytes:")
		if err != nil || ioErr != nil {
			b.logf("cost of process %d: %v %v", pid, err, ioErr)
			return cost{}
		}
		sum.cpu += cpu
		sum.written += written
	}
	return sum
}

// settled is spent when the sidecars have written what they had still to write: until nothing new was written for a while.
func (b *bench) settled(ctx context.Context, s side) cost {
	last := b.spent(ctx, s)
	for range 50 {
		if len(last.pids) == 0 {
			return last
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return cost{}
		}
		now := b.spent(ctx, s)
		if now.written == last.written {
			return now
		}
		last = now
	}
	return last
}

// addTo puts what was spent since before into a sample, per operation and per byte of the application. It adds nothing where
// there is no sidecar, or another one by now.
func (c cost) addTo(got sample, before cost, operations, size int64) {
	if len(c.pids) == 0 || !slices.Equal(c.pids, before.pids) || operations == 0 || size == 0 {
		return
	}
	got["cpu_us"] = float64((c.cpu - before.cpu).Microseconds()) / float64(operations)
	got["amplification"] = float64(c.written-before.written) / float64(size)
}

// memory is the sum of the sidecars' resident bytes: all of it, and without the pages of the binary.
func memory(ctx context.Context, s side) (rss, anonymous int64, err error) {
	pids, err := s.sidecars(ctx)
	if err != nil {
		return 0, 0, err
	}
	if len(pids) == 0 {
		return 0, 0, fmt.Errorf("no sidecar runs")
	}
	for _, pid := range pids {
		all, err := procNumber(pid, "status", "VmRSS:")
		if err != nil {
			return 0, 0, err
		}
		anon, err := procNumber(pid, "status", "RssAnon:")
		if err != nil {
			return 0, 0, err
		}
		rss += all << 10
		anonymous += anon << 10
	}
	return rss, anonymous, nil
}

// procNumber is the number behind a key in a file of /proc/<pid>.
func procNumber(pid int, file, key string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/%d/%s: no %q", pid, file, key)
}

// cpuTime is user and system time of a process with its threads. /proc/<pid>/stat counts ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name before it may hold anything; remora's holds no ") "
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}
