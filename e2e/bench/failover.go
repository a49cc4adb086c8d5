package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// failoverConfig of `bench failover`: how long a volume of three copies is away when its pod's node fails, again and again.
type failoverConfig struct {
	remora, dir string
	rounds      int
	sizeMiB     int64
	files       int
	changed     int64         // MiB; 0: nodes fail for good
	timeout     time.Duration // for the copy to be complete again
}

func parseFailover(args []string) (cfg failoverConfig, err error) {
	flags := flag.NewFlagSet("bench failover", flag.ContinueOnError)
	flags.StringVar(&cfg.remora, "remora", "bin/remora", "the binary to measure")
	flags.StringVar(&cfg.dir, "dir", "", "folder for everything (default: a fresh one in /var/tmp); it needs four times -size")
	flags.IntVar(&cfg.rounds, "rounds", 20, "how many nodes fail")
	flags.Int64Var(&cfg.sizeMiB, "size", 10, "MiB of content, in one file")
	flags.IntVar(&cfg.files, "files", 0, "empty files beside it, 1,000 to a directory")
	flags.Int64Var(&cfg.changed, "changed", 0, "instead of the pod's, another node fails and comes back with its disk; so many MiB of the content change meanwhile")
	flags.DurationVar(&cfg.timeout, "timeout", 10*time.Minute, "after which a new copy that is not complete fails the run")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if flags.NArg() > 0 {
		return cfg, fmt.Errorf("failover: unexpected argument %q: everything is a flag, see -help", flags.Arg(0))
	}
	if cfg.changed < 0 || cfg.changed > cfg.sizeMiB {
		return cfg, fmt.Errorf("failover: -changed %d; allowed: 0 to -size, which is %d", cfg.changed, cfg.sizeMiB)
	}
	if cfg.rounds < 1 || cfg.sizeMiB < 1 || cfg.files < 0 || cfg.files%1000 != 0 {
		return cfg, fmt.Errorf("failover: -rounds %d, -size %d, -files %d; allowed: at least 1, at least 1, thousands", cfg.rounds, cfg.sizeMiB, cfg.files)
	}
	return cfg, nil
}

// failed is what a round measured.
type failed struct {
	mounted    time.Duration // from the failure of the node until the pod is mounted on another one
	afterStart time.Duration // the part of it behind the start of the pod's process there, as the supervisor says
	used       time.Duration // from the failure until something was written there, synced, and read back
	complete   time.Duration // from the failure until three voters have everything
	metaBytes  int64         // of the copy of the metadata
	metaTook   time.Duration
}

// failover is `bench failover`.
func failover(args []string) (err error) {
	cfg, err := parseFailover(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b := &bench{cfg: Config{Remora: cfg.remora, Dir: cfg.dir, Volume: "e2e/bench/failover.yaml"},
		logf: func(format string, args ...any) { _, _ = fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	if err := b.makeDir(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if b.rig, err = startRig(ctx, b.cfg, filepath.Join(b.dir, "remora"), b.logf); err != nil {
		return err
	}
	mount, err := b.rig.mount(ctx, "data")
	if err != nil {
		return err
	}
	if err := b.fillVolume(ctx, cfg, mount); err != nil {
		return err
	}
	if cfg.changed > 0 {
		return b.returns(ctx, cfg, mount)
	}
	var rounds []failed
	for range cfg.rounds {
		r, err := b.failNode(ctx, cfg)
		if err != nil {
			return fmt.Errorf("round %d: %w", len(rounds)+1, err)
		}
		rounds = append(rounds, r)
		b.logf("round %d/%d: mounted after %v (%v after its start), used after %v, three copies after %v; metadata %.1f MiB in %v", len(rounds), cfg.rounds,
			ms(r.mounted), ms(r.afterStart), ms(r.used), ms(r.complete), float64(r.metaBytes)/mib, ms(r.metaTook))
	}
	report(cfg, rounds)
	return nil
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

func (b *bench) fillVolume(ctx context.Context, cfg failoverConfig, mount string) error {
	start := time.Now()
	if err := b.longWorker(ctx, "lay", layArgs{filepath.Join(mount, "content"), cfg.sizeMiB * mib}, nil); err != nil {
		return err
	}
	if cfg.files > 0 {
		if err := b.longWorker(ctx, "fill", fillArgs{Dir: filepath.Join(mount, "files"), Dirs: cfg.files / 1000, Each: 1000}, nil); err != nil {
			return err
		}
	}
	if err := b.worker(ctx, "sync", []string{mount}, nil); err != nil {
		return err
	}
	_, _, err := b.complete(ctx, cfg.timeout)
	b.logf("filled with %d MiB and %d files in %v", cfg.sizeMiB, cfg.files, ms(time.Since(start)))
	return err
}

var afterStart = regexp.MustCompile(`is mounted again, (\S+) after its start there`)

// failNode has the pod's node fail, and waits until the volume is as before.
func (b *bench) failNode(ctx context.Context, cfg failoverConfig) (r failed, err error) {
	_, node, err := b.complete(ctx, cfg.timeout)
	if err != nil {
		return r, err
	}
	log, err := os.ReadFile(b.rig.log)
	if err != nil {
		return r, err
	}
	start := time.Now()
	out, err := b.run(ctx, cfg.timeout, exec.Command(cfg.remora, "dev", "fail-node", node, "--dir", b.rig.dir))
	if err != nil {
		return r, err
	}
	r.mounted = time.Since(start)
	if found := afterStart.FindSubmatch(out); found != nil {
		if r.afterStart, err = time.ParseDuration(string(found[1])); err != nil {
			return r, err
		}
	} else {
		return r, fmt.Errorf("fail-node did not say that the pod is mounted again: %s", out)
	}
	mount, err := b.rig.mount(ctx, "data")
	if err != nil {
		return r, err
	}
	if err := b.worker(ctx, "touch", touchArgs{mount, cfg.sizeMiB * mib}, nil); err != nil {
		return r, err
	}
	r.used = time.Since(start)
	if _, _, err := b.complete(ctx, cfg.timeout); err != nil {
		return r, err
	}
	r.complete = time.Since(start)
	r.metaBytes, r.metaTook, err = b.metadata(len(log))
	return r, err
}

var caughtUp = regexp.MustCompile(`caught up with the group by a copy of its state .*bytes=(\d+) took=(\S+)`)

// metadata is what the supervisor's log says about copies of metadata since: the largest, if there were more.
func (b *bench) metadata(since int) (bytes int64, took time.Duration, err error) {
	log, err := os.ReadFile(b.rig.log)
	if err != nil {
		return 0, 0, err
	}
	for _, found := range caughtUp.FindAllSubmatch(log[min(since, len(log)):], -1) {
		n, numberErr := strconv.ParseInt(string(found[1]), 10, 64)
		d, timeErr := time.ParseDuration(string(found[2]))
		if err := errors.Join(numberErr, timeErr); err != nil {
			return 0, 0, err
		}
		if n > bytes {
			bytes, took = n, d
		}
	}
	return bytes, took, nil
}

// complete waits until the volume is mounted and has three voters that have everything, and answers where.
func (b *bench) complete(ctx context.Context, limit time.Duration) (mount, node string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		st, err := b.rig.status(ctx)
		if err != nil && ctx.Err() == nil {
			return "", "", err
		}
		for _, pod := range st.Pods {
			for _, v := range pod.Volumes {
				whole := v.State == "Mounted" && len(v.Replicas) == 3
				for _, r := range v.Replicas {
					whole = whole && r.Role == "voter" && r.State == "InSync" && r.Missing == 0
				}
				if whole {
					return v.Mount, pod.Node, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return "", "", fmt.Errorf("three copies: %w; %+v", ctx.Err(), st)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

type touchArgs struct {
	Mount string
	Size  int64 // of the file
}

// touch uses a volume as a program would that has just started: it writes a file and syncs it, and reads somewhere in the large one.
func touch(args touchArgs) (sample, error) {
	want := []byte(rand.Text())
	path := filepath.Join(args.Mount, "touched")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(want); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if got, err := os.ReadFile(path); err != nil || !slices.Equal(got, want) {
		return nil, fmt.Errorf("%q was read where %q was written: %w", got, want, err)
	}
	content, err := os.Open(filepath.Join(args.Mount, "content"))
	if err != nil {
		return nil, err
	}
	defer content.Close()
	_, err = content.ReadAt(make([]byte, 4096), args.Size/2)
	return sample{}, err
}

// report prints the table of all rounds.
func report(cfg failoverConfig, rounds []failed) {
	fmt.Printf("%d rounds, %d MiB of content, %d files\n\n| seconds from the failure of the node | p50 | p99 | most |\n| --- | --- | --- | --- |\n", len(rounds), cfg.sizeMiB, cfg.files)
	line := func(what string, of func(failed) time.Duration) (p50 float64) {
		var all []float64
		for _, r := range rounds {
			all = append(all, of(r).Seconds())
		}
		slices.Sort(all)
		p50 = *median(all)
		fmt.Printf("| %s | %.2f | %.2f | %.2f |\n", what, p50, all[(len(all)*99-1)/100], all[len(all)-1])
		return p50
	}
	line("mounted on another node", func(r failed) time.Duration { return r.mounted })
	line("  of these, after the start of the pod there", func(r failed) time.Duration { return r.afterStart })
	line("a file written, synced and read, and 4 KiB of the content read", func(r failed) time.Duration { return r.used })
	complete := line("three complete copies", func(r failed) time.Duration { return r.complete })
	took := line("copy of the metadata (from its request until it is installed)", func(r failed) time.Duration { return r.metaTook })
	var bytes []float64
	for _, r := range rounds {
		bytes = append(bytes, float64(r.metaBytes)/mib)
	}
	fmt.Printf("\nmetadata: %.1f MiB, %.0f MiB/s; content: %.0f MiB/s over all of the time until three copies were complete\n", *median(bytes),
		*median(bytes)/took, float64(cfg.sizeMiB)/complete)
}
