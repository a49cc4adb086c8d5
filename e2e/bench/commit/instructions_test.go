package commit_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// counts for one write: thousands of instructions, switches of context, and objects that were allocated. They hardly depend on what else the
// machine does, as times do.
type counts struct{ user, kernel, switches, objects float64 }

func (c counts) String() string {
	text := fmt.Sprintf("%.1f and %.1f thousand instructions of user and kernel, %.1f switches", c.user, c.kernel, c.switches)
	if c.objects > 0 {
		text += fmt.Sprintf(", %.0f objects", c.objects)
	}
	return text
}

func (c counts) plus(o counts) counts {
	return counts{c.user + o.user, c.kernel + o.kernel, c.switches + o.switches, c.objects + o.objects}
}

// counters of a process; none where the machine has no such counter, or does not let us: then the counts are 0.
type counters struct {
	fds     [3][]int // by field of counts
	objects uint64   // of this process, when it began
	own     bool
}

// countProcess begins to count for all threads that a process has, and for those that these make.
func countProcess(pid int) (c counters) {
	if !*count {
		return c
	}
	kinds := [3]unix.PerfEventAttr{
		{Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS, Bits: unix.PerfBitInherit | unix.PerfBitExcludeKernel},
		{Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS, Bits: unix.PerfBitInherit | unix.PerfBitExcludeUser},
		{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CONTEXT_SWITCHES, Bits: unix.PerfBitInherit},
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid)) // none: 0
	for _, dir := range tasks {
		tid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		for i := range kinds {
			kinds[i].Size = uint32(unsafe.Sizeof(kinds[i]))
			if fd, err := unix.PerfEventOpen(&kinds[i], tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC); err == nil {
				c.fds[i] = append(c.fds[i], fd)
			}
		}
	}
	return c
}

// stop answers what there was for each of n writes.
func (c counters) stop(n float64) counts {
	var sums [3]float64
	for i, fds := range c.fds {
		for _, fd := range fds {
			var b [8]byte
			if n, err := unix.Read(fd, b[:]); err == nil && n == len(b) {
				sums[i] += float64(binary.NativeEndian.Uint64(b[:]))
			}
			_ = unix.Close(fd)
		}
	}
	got := counts{user: sums[0] / 1000 / n, kernel: sums[1] / 1000 / n, switches: sums[2] / n}
	if c.own {
		got.objects = float64(allocated()-c.objects) / n
	}
	return got
}

func countOwn() counters {
	c := countProcess(os.Getpid())
	if c.own = *count; c.own {
		c.objects = allocated()
	}
	return c
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
