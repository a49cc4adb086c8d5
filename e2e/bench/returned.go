package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// returned is what a round measured: a disk was away for a while.
type returned struct {
	filled    float64       // bytes of content that came to the disk from peers, whole blobs
	received  float64       // bytes of everything that came
	metaBytes int64         // of a copy of the metadata; 0: the log was enough
	complete  time.Duration // from the node's return until three voters have everything
}

// returns has a node without the pod fail and come back, again and again.
func (b *bench) returns(ctx context.Context, cfg failoverConfig, mount string) error {
	var rounds []returned
	for range cfg.rounds {
		r, err := b.returnNode(ctx, cfg, mount)
		if err != nil {
			return fmt.Errorf("round %d: %w", len(rounds)+1, err)
		}
		rounds = append(rounds, r)
		b.logf("round %d/%d: three copies %v after the disk came back; %.1f MiB came, of these content %.1f, metadata %.1f", len(rounds), cfg.rounds, ms(r.complete),
			r.received/mib, r.filled/mib, float64(r.metaBytes)/mib)
	}
	fmt.Printf("%d rounds, %d MiB of content, of which %d MiB changed while the disk was away, %d files\n\n| | p50 | most |\n| --- | --- | --- |\n", len(rounds), cfg.sizeMiB,
		cfg.changed, cfg.files)
	line := func(what, format string, of func(returned) float64) {
		var all []float64
		for _, r := range rounds {
			all = append(all, of(r))
		}
		slices.Sort(all)
		fmt.Printf("| %s | "+format+" | "+format+" |\n", what, *median(all), all[len(all)-1])
	}
	line("MiB that its process received", "%.1f", func(r returned) float64 { return r.received / mib })
	line("  content, whole blobs", "%.1f", func(r returned) float64 { return r.filled / mib })
	line("  metadata", "%.1f", func(r returned) float64 { return float64(r.metaBytes) / mib })
	line("three complete copies, seconds after its return", "%.2f", func(r returned) float64 { return r.complete.Seconds() })
	return nil
}

func (b *bench) returnNode(ctx context.Context, cfg failoverConfig, mount string) (r returned, err error) {
	_, podsNode, err := b.complete(ctx, cfg.timeout)
	if err != nil {
		return r, err
	}
	node, err := b.otherNode(ctx, podsNode)
	if err != nil {
		return r, err
	}
	dev := func(args ...string) error {
		_, err := b.run(ctx, cfg.timeout, exec.Command(cfg.remora, append(append([]string{"dev"}, args...), "--dir", b.rig.dir)...))
		return err
	}
	if err := dev("fail-node", node, "--keep-disk", "--replace-after", "1h"); err != nil {
		return r, err
	}
	if err := b.longWorker(ctx, "change", changeArgs{filepath.Join(mount, "content"), cfg.sizeMiB, cfg.changed}, nil); err != nil {
		return r, err
	}
	log, err := os.ReadFile(b.rig.log)
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := dev("return-node", node); err != nil {
		return r, err
	}
	if _, _, err := b.complete(ctx, cfg.timeout); err != nil {
		return r, err
	}
	r.complete = time.Since(start)
	if r.filled, err = b.sumOn(ctx, node, filledBytes); err != nil {
		return r, err
	}
	if r.received, err = b.sumOn(ctx, node, receivedBytes...); err != nil {
		return r, err
	}
	r.metaBytes, _, err = b.metadata(len(log))
	return r, err
}

// otherNode is a node that has a copy, and not the pod.
func (b *bench) otherNode(ctx context.Context, podsNode string) (string, error) {
	st, err := b.rig.status(ctx)
	if err != nil {
		return "", err
	}
	for _, pod := range st.Pods {
		for _, v := range pod.Volumes {
			for _, r := range v.Replicas {
				if r.Node != podsNode {
					return r.Node, nil
				}
			}
		}
	}
	return "", fmt.Errorf("no copy on another node than %s: %+v", podsNode, st)
}

// What a process counts since it began: content that its replicas had from peers, and all bytes that came, before encryption.
const filledBytes = "remora_replica_filled_bytes_total{"

var receivedBytes = []string{`remora_transport_bytes_total{direction="in"}`, `remora_transport_bulk_bytes_total{direction="in"}`}

// sumOn is the sum of the series with such beginnings, of the process on a node.
func (b *bench) sumOn(ctx context.Context, node string, series ...string) (sum float64, err error) {
	st, err := b.rig.status(ctx)
	if err != nil {
		return 0, err
	}
	found := 0
	for _, pod := range st.Pods {
		if pod.Node != node {
			continue
		}
		text, err := b.rig.get(ctx, pod.Name, "/metrics")
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(text) {
			if !slices.ContainsFunc(series, func(s string) bool { return strings.HasPrefix(line, s) }) {
				continue
			}
			n, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:len(line)-1], 64)
			if err != nil {
				return 0, fmt.Errorf("metrics of pod %s: unreadable line %q", pod.Name, line)
			}
			sum, found = sum+n, found+1
		}
	}
	if found < len(series) {
		err = fmt.Errorf("the process on %s does not count %q", node, series)
	}
	return sum, err
}

type changeArgs struct {
	File          string
	Size, Changed int64 // MiB
}

// change writes Changed whole MiB of the file anew, at equal distances.
func change(args changeArgs) error {
	f, err := os.OpenFile(args.File, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close() // synced below
	noise := make([]byte, mib)
	_, _ = rand.Read(noise)
	for n := range args.Changed {
		if _, err := f.WriteAt(noise, n*args.Size/args.Changed*mib); err != nil {
			return err
		}
	}
	return f.Sync()
}
