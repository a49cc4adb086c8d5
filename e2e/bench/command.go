package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// run runs a command with a time limit and answers its standard output. The command gets a process group of its own, so that
// Ctrl-C reaches bench alone, which then ends everything in order.
//
// At the limit the group is killed. A process that waits for a mount nobody serves may not even die of that, so the
// mount's connection is aborted next.
func (b *bench) run(ctx context.Context, limit time.Duration, cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()

	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		b.end(cmd, ended)
		err = ctx.Err()
	case <-timer.C:
		b.end(cmd, ended)
		err = fmt.Errorf("no end within %v", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w%s", filepath.Base(cmd.Path), err, lastLines(stderr.String()+stdout.String()))
	}
	return stdout.Bytes(), nil
}

// end kills a command's group and waits, in bounds, until it is gone.
func (b *bench) end(cmd *exec.Cmd, ended <-chan error) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // gone already: fine
	select {
	case <-ended:
		return
	case <-time.After(5 * time.Second):
	}
	abortMounts(b.dir, b.logf)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		b.logf("process %d (%s) cannot be killed", cmd.Process.Pid, cmd.Path)
	}
}

func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// stop ends a process that was started with Start, by sig, and by SIGKILL when it is not gone after the limit. wait is closed
// when it was waited for.
func stop(pid int, sig syscall.Signal, wait <-chan struct{}, limit time.Duration) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-wait:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("process %d: not gone %v after %v", pid, limit, sig)
	}
}

// lastLines are the end of a program's output, as the end of an error message.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > 10 {
		lines = lines[len(lines)-10:]
	}
	if len(lines) == 1 && lines[0] == "" {
		return ""
	}
	return "\n  " + strings.Join(lines, "\n  ")
}
