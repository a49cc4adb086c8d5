package e2e

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/e2e/supervisor"
)

// child is a program that a test started, in a process group of its own.
type child struct {
	t    *testing.T
	i    *instance
	cmd  *exec.Cmd
	name string
	out  supervisor.Output // what it wrote to its standard output and standard error, unless dialog has the former
	done chan struct{}
	err  error // how it ended, once done is closed

	stdin  io.WriteCloser // of a dialog
	stdout *bufio.Reader
}

// as runs a program under another user: "" is root.
func as(t *testing.T, account string) *syscall.SysProcAttr {
	t.Helper()
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if account != "" {
		uid, gid := idsOf(t, account)
		attr.Credential = &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{}}
	}
	return attr
}

func idsOf(t *testing.T, account string) (uid, gid uint32) {
	t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	require.NoError(t, err)
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); f[0] == account {
			u, err := strconv.ParseUint(f[2], 10, 32)
			require.NoError(t, err)
			g, err := strconv.ParseUint(f[3], 10, 32)
			require.NoError(t, err)
			return uint32(u), uint32(g)
		}
	}
	require.FailNow(t, "no such user", account)
	return 0, 0
}

// program prepares a program. It runs as account, with env added to a small environment; its working directory is not on the mount.
func (i *instance) program(account string, env []string, name string, args ...string) *child {
	cmd := exec.Command(name, args...)
	cmd.Dir = programs.Base
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "HOME=" + programs.Base,
		"GORACE=atexit_sleep_ms=0", // a worker with the race detector would sleep for a second before it ends
	}, env...)
	cmd.SysProcAttr, cmd.WaitDelay = as(i.t, account), 5*time.Second
	c := &child{t: i.t, i: i, cmd: cmd, name: name + " " + strings.Join(args, " "), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &c.out, &c.out
	return c
}

// worker prepares this test binary in the role of a worker.
func (i *instance) worker(account, role string, args ...string) *child {
	return i.program(account, nil, programs.Self, append([]string{"worker", role}, args...)...)
}

// start starts the program. It ends with the test at the latest.
func (c *child) start() *child {
	c.t.Helper()
	require.NoError(c.t, c.cmd.Start(), c.name)
	go func() { c.err = c.cmd.Wait(); close(c.done) }() // ended by the cleanup
	c.t.Cleanup(func() { c.kill() })
	return c
}

// kill ends the program and its children. What waits on the mount cannot be killed before the mount is aborted.
func (c *child) kill() {
	select {
	case <-c.done:
		return
	default:
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may have ended just now
	select {
	case <-c.done:
		return
	case <-time.After(5 * time.Second):
	}
	c.t.Errorf("%s hangs in the kernel; aborting the mounts", c.name)
	if err := supervisor.AbortMounts(c.i.dir); err != nil {
		c.t.Error(err)
	}
	<-c.done
}

// wait returns how the program ended; after the limit it is killed and the test fails.
func (c *child) wait(limit time.Duration) error {
	c.t.Helper()
	select {
	case <-c.done:
		return c.err
	case <-time.After(limit):
		c.kill()
		require.FailNow(c.t, "a program does not end", "%s, after %v\n%s", c.name, limit, c.out.String())
		return nil
	}
}

// ok waits for the program, which must succeed, and returns what it wrote.
func (c *child) ok(limit time.Duration) string {
	c.t.Helper()
	err := c.wait(limit)
	require.NoError(c.t, err, "%s\n%s", c.name, c.out.String())
	return c.out.String()
}

// run starts the program and waits for its success.
func (c *child) run(limit time.Duration) string {
	c.t.Helper()
	return c.start().ok(limit)
}

// input gives the program its standard input.
func (c *child) input(text string) *child {
	c.cmd.Stdin = strings.NewReader(text)
	return c
}

// dialog starts a worker that says lines and waits for lines.
func (c *child) dialog() *child {
	c.t.Helper()
	var err error
	c.stdin, err = c.cmd.StdinPipe()
	require.NoError(c.t, err)
	r, w, err := os.Pipe()
	require.NoError(c.t, err)
	c.cmd.Stdout, c.stdout = w, bufio.NewReader(r)
	c.t.Cleanup(func() { _ = r.Close() })
	c.start()
	require.NoError(c.t, w.Close())
	return c
}

// expect waits until the worker says the line.
func (c *child) expect(line string) {
	c.t.Helper()
	c.expectWithin(line, time.Minute)
}

// expectWithin is expect for what takes longer.
func (c *child) expectWithin(line string, limit time.Duration) {
	c.t.Helper()
	said := make(chan string, 1)
	go func() {
		s, _ := c.stdout.ReadString('\n') // an end without the line is found below
		said <- s
	}()
	select {
	case s := <-said:
		require.Equal(c.t, line+"\n", s, "%s\n%s", c.name, c.out.String())
	case <-time.After(limit):
		c.kill()
		require.FailNow(c.t, "a worker does not answer", "%s: waiting for %q\n%s", c.name, line, c.out.String())
	}
}

// tell sends the worker a line.
func (c *child) tell(line string) {
	c.t.Helper()
	_, err := c.stdin.Write([]byte(line + "\n"))
	require.NoError(c.t, err, c.name)
}

// lines splits text.
func lines(text string) []string {
	var all []string
	for s := bufio.NewScanner(bytes.NewBufferString(text)); s.Scan(); {
		all = append(all, s.Text())
	}
	return all
}
