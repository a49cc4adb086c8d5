// Package process runs sidecars as processes of this machine: started so that the kernel kills them with their supervisor, with
// their output in a log file and on the console. It decides nothing: when to start, end or start again is its user's.
package process

import (
	"bufio"
	"bytes"
	"context"
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

// Command is how a sidecar is started.
type Command struct {
	Args []string // after the program
	Env  []string
}

// Spawner starts processes that the kernel kills when this one dies. PDEATHSIG watches the thread that started the process, so
// one thread does all the starting and lives until close.
type Spawner struct {
	jobs chan func()
	done chan struct{}
}

// NewSpawner starts its thread. Close ends it.
func NewSpawner() *Spawner {
	s := &Spawner{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, when all its children have ended
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// Close ends the thread; whatever it started must have ended.
func (s *Spawner) Close() {
	close(s.jobs)
	<-s.done
}

// Process is a running sidecar.
type Process struct {
	cmd  *exec.Cmd
	PID  int
	Done chan struct{} // closed when it has ended and all its output is read
	Err  error         // how it ended; set before Done is closed
}

// Start starts the program in a process group of its own; its output goes to the sink.
func (s *Spawner) Start(program string, c Command, out *Sink) (*Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, c.Args...)
	cmd.Args[0] = "remora" // what ps shows, also when program is /proc/self/exe
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.Env, "/", w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	s.jobs <- func() { started <- cmd.Start() }
	err = <-started
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	p := &Process{cmd: cmd, PID: cmd.Process.Pid, Done: make(chan struct{})}
	go func() {
		defer close(p.Done)
		defer r.Close()
		copied := make(chan struct{})
		go func() { defer close(copied); out.copy(r) }()
		p.Err = cmd.Wait()
		_ = r.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // a child of it may hold the pipe open
		<-copied
	}()
	return p, nil
}

// Try runs a program to its end, and returns what it wrote.
func (s *Spawner) Try(ctx context.Context, program string, args ...string) (out []byte, err error) {
	var b bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = "/", &b, &b, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	s.jobs <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	err = cmd.Wait()
	return b.Bytes(), err
}

// Kill kills the process with its group, and does not wait.
func (p *Process) Kill() { _ = syscall.Kill(-p.PID, syscall.SIGKILL) }

// Terminate asks the process to end and kills it, with its group, when it has not after the limit.
func (p *Process) Terminate(limit time.Duration) (killed bool) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.Done:
		return false
	case <-time.After(limit):
		p.Kill()
		<-p.Done
		return true
	}
}

// Console prints lines of all sidecars without ever making one wait for a slow terminal.
type Console struct {
	lines chan string
	done  chan struct{}

	mu      sync.Mutex
	dropped int
}

// NewConsole returns a console that writes to w until Close.
func NewConsole(w io.Writer) *Console {
	c := &Console{lines: make(chan string, 1024), done: make(chan struct{})}
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

// Print prints a line, or counts it as left out.
func (c *Console) Print(line string) {
	select {
	case c.lines <- line:
	default:
		c.mu.Lock()
		c.dropped++
		c.mu.Unlock()
	}
}

func (c *Console) takeDropped() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.dropped
	c.dropped = 0
	return n
}

// Close prints what is left.
func (c *Console) Close() {
	close(c.lines)
	<-c.done
}

// Sink is where the output of a pod's sidecars goes: its log file and the console.
type Sink struct {
	Path    string // of the log file
	Prefix  string // of lines on the console
	Console *Console

	mu   sync.Mutex
	last []string // the last lines, for error messages
}

const keptLines = 10

// maxLog is the size at which a log file becomes <file>.1 when the next sidecar starts.
const maxLog = 16 << 20

func (s *Sink) copy(r io.Reader) {
	if st, err := os.Stat(s.Path); err == nil && st.Size() > maxLog {
		_ = os.Rename(s.Path, s.Path+".1")
	}
	f, err := os.OpenFile(s.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		s.Console.Print(fmt.Sprintf("%s | (no log file: %v)\n", s.Prefix, err))
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
			s.Console.Print(s.Prefix + " | " + line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (s *Sink) keep(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = append(s.last, strings.TrimRight(line, "\n"))
	if len(s.last) > keptLines {
		s.last = s.last[1:]
	}
}

// TakeLast returns the last lines and forgets them.
func (s *Sink) TakeLast() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := slices.Clone(s.last)
	s.last = nil
	return last
}
