package dev

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// spawner starts processes that the kernel kills when this one dies. PDEATHSIG watches the thread that started the process, so
// one thread does all the starting and lives until close.
type spawner struct {
	jobs chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, when all its children have ended
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *spawner) close() {
	close(s.jobs)
	<-s.done
}

// process is a running sidecar.
type process struct {
	cmd  *exec.Cmd
	pid  int
	done chan struct{} // closed when it has ended and all its output is read
	err  error         // how it ended; set before done is closed
}

// start starts the program in a process group of its own; its output goes to the sink.
func (s *spawner) start(program string, c command, out *sink) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, c.args...)
	cmd.Args[0] = "remora" // what ps shows, also when program is /proc/self/exe
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env, "/", w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	s.jobs <- func() { started <- cmd.Start() }
	err = <-started
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	p := &process{cmd: cmd, pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer r.Close()
		copied := make(chan struct{})
		go func() { defer close(copied); out.copy(r) }()
		p.err = cmd.Wait()
		_ = r.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // a child of it may hold the pipe open
		<-copied
	}()
	return p, nil
}

// terminate asks the process to end and kills it, with its group, when it has not after the limit.
func (p *process) terminate(limit time.Duration) (killed bool) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return false
	case <-time.After(limit):
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		<-p.done
		return true
	}
}

// console prints lines of all sidecars without ever making one wait for a slow terminal.
type console struct {
	lines chan string
	done  chan struct{}

	mu      sync.Mutex
	dropped int
}

func newConsole(w io.Writer) *console {
	c := &console{lines: make(chan string, 1024), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for line := range c.lines {
			_, _ = io.WriteString(w, line) // a closed terminal is no reason to stop
			if n := c.takeDropped(); n > 0 {
				fmt.Fprintf(w, "(%d lines left out; the log files have them)\n", n)
			}
		}
	}()
	return c
}

func (c *console) print(line string) {
	select {
	case c.lines <- line:
	default:
		c.mu.Lock()
		c.dropped++
		c.mu.Unlock()
	}
}

func (c *console) takeDropped() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.dropped
	c.dropped = 0
	return n
}

func (c *console) close() {
	close(c.lines)
	<-c.done
}

// sink is where the output of a pod's sidecars goes: its log file and the console.
type sink struct {
	path    string
	prefix  string
	console *console

	mu   sync.Mutex
	last []string // the last lines, for error messages
}

const keptLines = 10

// maxLog is the size at which a log file becomes <file>.1 when the next sidecar starts.
const maxLog = 16 << 20

func (s *sink) copy(r io.Reader) {
	if st, err := os.Stat(s.path); err == nil && st.Size() > maxLog {
		_ = os.Rename(s.path, s.path+".1")
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		s.console.print(fmt.Sprintf("%s | (no log file: %v)\n", s.prefix, err))
	} else {
		defer f.Close()
	}
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		b, err := lines.ReadSlice('\n') // a longer line is cut in pieces
		if len(b) > 0 {
			line := strings.TrimSuffix(string(b), "\n") + "\n"
			if f != nil {
				_, _ = f.WriteString(line) // a full disk must not stop the sidecar
			}
			s.keep(line)
			s.console.print(s.prefix + " | " + line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (s *sink) keep(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = append(s.last, strings.TrimRight(line, "\n"))
	if len(s.last) > keptLines {
		s.last = s.last[1:]
	}
}

// takeLast returns the last lines and forgets them.
func (s *sink) takeLast() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := slices.Clone(s.last)
	s.last = nil
	return last
}
