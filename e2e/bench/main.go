// Command bench is `make bench`: it measures a Remora volume side by side with a plain directory of the same disk, in the same
// run, and prints ratios of medians. It knows nothing but the binary: it starts `remora dev` with one volume, and ends it.
//
// What it promises: both sides get the same calls, files laid out the same way, and the same page cache before each
// measurement (see cache.go); the order of the sides alternates by round; every command that it starts has a time limit; and
// whatever happens, no process, mount or file of it stays (see rig.go). What it does not: a quiet machine. Trust ratios.
//
// workloads.go is the table of everything that is measured. A new one is one more entry there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		exit(worker(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "floor" {
		exit(serveFloor(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "replica" {
		exit(serveReplica(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "failover" {
		exit(failover(os.Args[2:]))
	}
	cfg, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err = Run(ctx, cfg)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
