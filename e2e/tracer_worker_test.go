package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracer stops a sidecar at every system call, by ptrace(2), and sees the requests that it reads and the answers that it writes.
type tracer struct {
	pid      int
	fuse     uint64            // its descriptor of /dev/fuse
	calls    map[int]sysCall   // that the threads are in
	opcode   map[uint64]uint32 // of requests by unique
	stopping map[int]bool      // threads that were told to stop, and have not done so yet
	attached chan struct{}     // closed when there are no such any more
}

// sysCall is struct ptrace_syscall_info at the entry of a call.
type sysCall struct {
	op     uint8 // 1 entry, 2 exit
	_      [3]uint8
	_      uint32
	_, _   uint64
	nr     uint64 // at the exit: what the call returns
	args   [6]uint64
	unused [2]uint64
}

// killBeforeAnswer takes PID OPCODE of a sidecar. It kills the process when it is about to write that a request of that kind has
// succeeded: the answer is never written.
func killBeforeAnswer(args []string) error {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	opcode, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // a tracer is a thread
	t := &tracer{pid: pid, calls: map[int]sysCall{}, opcode: map[uint64]uint32{}, stopping: map[int]bool{}, attached: make(chan struct{})}
	if err := errors.Join(t.findFuse(), t.attach()); err != nil {
		return err
	}
	said := make(chan error, 1)
	go func() { // the sidecar must go on meanwhile
		<-t.attached
		said <- say("attached")
	}()
	for {
		tid, answered, err := t.next()
		if err != nil {
			return err
		}
		if answered == uint32(opcode) {
			return errors.Join(unix.Kill(pid, unix.SIGKILL), <-said)
		}
		if err := t.resume(tid, 0); err != nil {
			return err
		}
	}
}

func (t *tracer) findFuse() error {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", t.pid))
	if err != nil {
		return err
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == "/dev/fuse" {
			t.fuse, err = strconv.ParseUint(filepath.Base(l), 10, 64)
			return err
		}
	}
	return fmt.Errorf("process %d has no /dev/fuse", t.pid)
}

func ptrace(request, tid int, addr, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); errno != 0 {
		return fmt.Errorf("ptrace %#x of thread %d: %w", request, tid, errno)
	}
	return nil
}

// attach seizes all threads; those that come later are seized by the kernel.
func (t *tracer) attach() error {
	seized := map[int]bool{}
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return err
			}
			if seized[tid] {
				continue
			}
			seized[tid], again = true, true
			err = ptrace(unix.PTRACE_SEIZE, tid, 0, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE)
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ESRCH) {
				continue // seized by the kernel, or gone
			}
			if err == nil {
				err = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0)
			}
			if err != nil {
				return err
			}
			t.stopping[tid] = true
		}
	}
	return nil
}

// stopped notes that a thread has stopped for the first time, or ended. Before that it may still return from a read that nobody has seen it
// enter, with the request that the test waits for.
func (t *tracer) stopped(tid int) {
	if !t.stopping[tid] {
		return
	}
	delete(t.stopping, tid)
	if len(t.stopping) == 0 {
		close(t.attached)
	}
}

// resume lets a thread run to its next system call.
func (t *tracer) resume(tid int, signal unix.Signal) error {
	err := ptrace(unix.PTRACE_SYSCALL, tid, 0, uintptr(signal))
	if errors.Is(err, unix.ESRCH) {
		err = nil // gone
	}
	return err
}

// next waits until a thread is at a system call. It returns the kind of request that the thread is about to answer with success, or 0.
func (t *tracer) next() (tid int, answered uint32, err error) {
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("the sidecar ended without the answer: %w", err)
		}
		if !ws.Stopped() {
			t.stopped(tid)
			continue
		}
		if ws.StopSignal() == unix.SIGTRAP|0x80 {
			answered, err := t.at(tid)
			return tid, answered, err
		}
		signal := ws.StopSignal()
		if uint32(ws)>>16 != 0 { // a stop of ptrace's own
			signal = 0
			t.stopped(tid)
		}
		if err := t.resume(tid, signal); err != nil {
			return 0, 0, err
		}
	}
}

// at looks at the system call that a thread enters or leaves.
func (t *tracer) at(tid int) (answered uint32, err error) {
	var c sysCall
	if err := ptrace(unix.PTRACE_GET_SYSCALL_INFO, tid, unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c))); err != nil {
		return 0, err
	}
	const entry, exit = 1, 2
	le := binary.LittleEndian
	switch {
	case c.op == entry:
		t.calls[tid] = c
		if c.nr == unix.SYS_WRITE && c.args[0] == t.fuse && c.args[2] >= 16 {
			h, err := t.memory(c.args[1]) // struct fuse_out_header
			if err != nil || le.Uint32(h[4:]) != 0 {
				return 0, err
			}
			return t.opcode[le.Uint64(h[8:])&^(1<<63)], nil
		}
	case c.op == exit:
		was := t.calls[tid]
		if was.nr == unix.SYS_READ && was.args[0] == t.fuse && int64(c.nr) >= 40 {
			h, err := t.memory(was.args[1]) // struct fuse_in_header
			if err != nil {
				return 0, err
			}
			t.opcode[le.Uint64(h[8:])&^(1<<63)] = le.Uint32(h[4:])
		}
	}
	return 0, nil
}

// memory reads 16 bytes of the process.
func (t *tracer) memory(at uint64) (b [16]byte, err error) {
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMReadv(t.pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d bytes of %d", n, len(b))
	}
	return b, err
}
