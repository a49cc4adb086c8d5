package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/e2e/bench/quorum"
)

const (
	depths     = 2
	recordSize = 4096
	// quorumHeaders is what a record of 4 KiB has beside its content in Remora's journal and on its wire, about: the bare program
	// carries as much.
	quorumHeaders = 160
	quorumLog     = 64 * mib
)

// replicationDepths are how many writers there are.
var replicationDepths = [depths]int{1, 16}

type appendArgs struct {
	Dir    string
	Depth  int
	Millis int
}

// replicated measures 4 KiB write + fdatasync of one writer and of sixteen; on the side "bare" it is package quorum, without any
// file system.
func replicated(ctx context.Context, b *bench, s side) (sample, error) {
	all := sample{}
	for _, depth := range replicationDepths {
		got := sample{}
		before := b.spent(ctx, s)
		var err error
		if s.name == "bare" {
			err = b.worker(ctx, "quorum", quorum.Args{
				Dir: s.dir, Peers: [2]string{b.bareDir(0), b.bareDir(1)}, LogBytes: quorumLog,
				Depth: depth, Size: recordSize + quorumHeaders, For: b.cfg.Timed,
			}, &got)
		} else {
			err = b.worker(ctx, "append", appendArgs{filepath.Join(s.dir, "append"), depth, int(b.cfg.Timed.Milliseconds())}, &got)
			b.spent(ctx, s).addTo(got, before, int64(got[operationsDone]), int64(got[operationsDone])*recordSize)
		}
		if err != nil {
			return nil, err
		}
		for metric, value := range got {
			all[fmt.Sprintf("%s_%d", metric, depth)] = value
		}
	}
	return all, nil
}

func replicationRows() (rows []row) {
	for _, depth := range replicationDepths {
		metric := func(name string) string { return fmt.Sprintf("%s_%d", name, depth) }
		rows = append(rows,
			row{metric: metric("per_s"), title: fmt.Sprintf("4 KiB write + fdatasync, %d at a time", depth), unit: "1/s"},
			row{metric: metric("p50_us"), title: "  half of them take at most", unit: "us"},
			row{metric: metric("p99_us"), title: "  99 of 100 take at most", unit: "us"},
			row{metric: metric("cpu_us"), title: "  CPU of all replicas' processes for each", unit: "us"})
	}
	return rows
}

// bareDir is where a replica of the bare program has its log.
func (b *bench) bareDir(i int) string { return filepath.Join(b.dir, fmt.Sprintf("bare-%d", i+1)) }

// bare is the side without a file system.
func (b *bench) bare() (side, error) {
	s := side{name: "bare", dir: filepath.Join(b.dir, "bare")}
	return s, errors.Join(os.MkdirAll(s.dir, 0o755), os.MkdirAll(b.bareDir(0), 0o755), os.MkdirAll(b.bareDir(1), 0o755))
}

// runQuorum is a worker: the owner of the bare program.
func runQuorum(args quorum.Args) (sample, error) {
	got, err := quorum.Run(context.Background(), args, func(r quorum.ReplicaArgs) *exec.Cmd {
		encoded, _ := json.Marshal(r) // strings and a number
		return exec.Command("/proc/self/exe", "replica", string(encoded))
	})
	if err != nil {
		return nil, err
	}
	n := float64(got.Records)
	return sample{
		operationsDone: n, "per_s": got.PerSecond, "p50_us": micros(got.P50), "p99_us": micros(got.P99),
		"cpu_us": micros(got.OwnerCPU+got.ReplicaCPU) / n, "owner_cpu_us": micros(got.OwnerCPU) / n,
		"replica_cpu_us": micros(got.ReplicaCPU) / 2 / n,
	}, nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// serveReplica is `bench replica ARGS`: a replica of the bare program.
func serveReplica(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("replica: %d arguments, 1 expected: it is started by bench itself", len(args))
	}
	var r quorum.ReplicaArgs
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return quorum.Replica(ctx, r, os.Stdin, os.Stdout)
}

// appendBytes of each writer's file, which is written before, and then over and over from its beginning.
const appendBytes = 4 * mib

// runAppend is a worker: so many writers, each with a file of its own.
func runAppend(args appendArgs) (sample, error) {
	if err := os.MkdirAll(args.Dir, 0o755); err != nil {
		return nil, err
	}
	fds := make([]int, args.Depth)
	for i := range fds {
		fd, err := unix.Open(filepath.Join(args.Dir, fmt.Sprintf("log-%02d", i)), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		fds[i] = fd
		if _, err := unix.Pwrite(fd, make([]byte, appendBytes), 0); err != nil {
			return nil, err
		}
		if err := unix.Fsync(fd); err != nil {
			return nil, err
		}
	}
	took, errs := make([][]time.Duration, args.Depth), make([]error, args.Depth)
	limit := time.Duration(args.Millis) * time.Millisecond
	start := time.Now()
	var wg sync.WaitGroup
	for i, fd := range fds {
		wg.Go(func() {
			record := make([]byte, recordSize)
			for at := int64(0); errs[i] == nil && time.Since(start) < limit; at = (at + recordSize) % appendBytes {
				began := time.Now()
				if _, errs[i] = unix.Pwrite(fd, record, at); errs[i] == nil {
					errs[i] = unix.Fdatasync(fd)
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	return sample{
		operationsDone: float64(len(all)), "per_s": float64(len(all)) / elapsed.Seconds(),
		"p50_us": micros(all[len(all)/2]), "p99_us": micros(all[len(all)*99/100]),
	}, errors.Join(errs...)
}
