package commit_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// instructions counts those of a process, its kernel's part included: they hardly depend on what else the machine does, as times do. Where
// the machine has no such counter, or does not let us, the count is 0.
type instructions []int

// countInstructions begins to count those of all threads that a process has, and of those that these make.
func countInstructions(pid int) (c instructions) {
	if !*count {
		return nil
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid)) // none: 0
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS, Bits: unix.PerfBitInherit}
	attr.Size = uint32(unsafe.Sizeof(attr))
	for _, dir := range tasks {
		tid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC); err == nil {
			c = append(c, fd)
		}
	}
	return c
}

// stop answers how many thousands there were.
func (c instructions) stop() (thousands float64) {
	for _, fd := range c {
		var b [8]byte
		if n, err := unix.Read(fd, b[:]); err == nil && n == len(b) {
			thousands += float64(binary.NativeEndian.Uint64(b[:])) / 1000
		}
		_ = unix.Close(fd)
	}
	return thousands
}

func countOwn() instructions { return countInstructions(os.Getpid()) }
