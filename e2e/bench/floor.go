package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/remora-storage/remora/e2e/bench/floor"
)

// serveFloor is `bench floor DIR JOURNAL`: it serves until it is told to end.
func serveFloor(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("floor: %d arguments, 2 expected: it is started by bench itself", len(args))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	const size = 1024 * mib // more than a measurement writes, so that no page of it is written twice
	return floor.Serve(ctx, args[0], args[1], size, func() { fmt.Println("ready") })
}

// floorDaemon is a process that serves a file system in memory: the third side of `bench -floor`.
type floorDaemon struct {
	dir  string
	pid  int
	gone chan struct{}
}

func (b *bench) startFloor(ctx context.Context) (*floorDaemon, error) {
	d := &floorDaemon{dir: filepath.Join(b.dir, "floor"), gone: make(chan struct{})}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", "floor", d.dir, filepath.Join(b.dir, "floor.journal"))
	cmd.Stderr = os.Stderr
	ownGroup(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d.pid = cmd.Process.Pid
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(out)
		ready <- lines.Scan()
		_ = cmd.Wait() // its standard error is ours
		close(d.gone)
	}()
	select {
	case ok := <-ready:
		if ok {
			return d, nil
		}
		err = errors.New("floor: it ended before it served")
	case <-time.After(time.Minute):
		err = errors.New("floor: it does not serve after a minute")
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, d.close())
}

// close ends the process, which unmounts; mounts that it left are the business of bench.close.
func (d *floorDaemon) close() error {
	return stop(d.pid, syscall.SIGTERM, d.gone, 10*time.Second)
}

func (d *floorDaemon) sidecars(context.Context) ([]int, error) { return []int{d.pid}, nil }
