package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// layOut writes count files prefix0, prefix1... of size bytes, whole, with 1 MiB writes of noise and an fsync: nothing sparse,
// nothing merely allocated, and for both sides the same.
func layOut(prefix string, count int, size int64) func(context.Context, *bench, side) error {
	return func(ctx context.Context, b *bench, s side) error {
		for i := range count {
			args := layArgs{File: filepath.Join(s.dir, prefix+strconv.Itoa(i)), Size: size}
			if err := b.worker(ctx, "lay", args, nil); err != nil {
				return err
			}
		}
		return nil
	}
}

func randomWrite(prefix string, jobs int, size int64) func(context.Context, *bench, side) (sample, error) {
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		return b.fio(ctx, s, b.cfg.Timed, "--rw=randwrite", "--bs=4k", "--fsync=1", "--time_based",
			"--filename_format="+prefix+"$jobnum", "--numjobs="+strconv.Itoa(jobs), sizeFlag(size))
	}
}

func overwrite8k(prefix string, size int64) func(context.Context, *bench, side) (sample, error) {
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		return b.fio(ctx, s, b.cfg.Timed, "--rw=randwrite", "--bs=8k", "--fdatasync=1", "--time_based",
			"--filename_format="+prefix+"$jobnum", sizeFlag(size))
	}
}

// sequentialWrite makes a new file each time. It is not fio's: the rate that fio reports leaves the fsync of --end_fsync out, and
// so is that of the page cache.
func sequentialWrite(size int64) func(context.Context, *bench, side) (sample, error) {
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		before := b.spent(ctx, s)
		var got sample
		if err := b.worker(ctx, "write", layArgs{File: filepath.Join(s.dir, "w4.0"), Size: size}, &got); err != nil {
			return nil, err
		}
		b.settled(ctx, s).addTo(got, before, size/mib, size)
		return got, nil
	}
}

// sequentialRead reads the file once after the page cache was dropped, once more to be sure that it is hot, and then for two
// seconds.
func sequentialRead(prefix string, size int64) func(context.Context, *bench, side) (sample, error) {
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		read := []string{"--rw=read", "--bs=1M", "--filename_format=" + prefix + "$jobnum", sizeFlag(size)}
		cold, err := b.fio(ctx, s, 0, append(read, "--invalidate=1")...)
		if err != nil {
			return nil, fmt.Errorf("cold: %w", err)
		}
		if _, err := b.fio(ctx, s, 0, append(read, "--invalidate=0")...); err != nil {
			return nil, fmt.Errorf("warming: %w", err)
		}
		hot, err := b.fio(ctx, s, 2*time.Second, append(read, "--invalidate=0", "--time_based")...)
		if err != nil {
			return nil, fmt.Errorf("hot: %w", err)
		}
		return sample{"cold_mib_s": cold["mib_s"], "hot_mib_s": hot["mib_s"]}, nil
	}
}

func randomRead(prefix string, size int64, direct bool, depth int) func(context.Context, *bench, side) (sample, error) {
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		args := []string{"--rw=randread", "--bs=4k", "--time_based", "--filename_format=" + prefix + "$jobnum", sizeFlag(size)}
		if direct {
			args = append(args, "--direct=1")
		}
		if depth > 1 {
			args = append(args, "--ioengine=libaio", "--iodepth="+strconv.Itoa(depth))
		}
		return b.fio(ctx, s, b.cfg.Timed, args...)
	}
}

func sizeFlag(n int64) string { return "--size=" + strconv.FormatInt(n, 10) }

// fioReport is what bench reads of fio's JSON.
type fioReport struct {
	Jobs []struct {
		Error int    `json:"error"`
		Read  fioWay `json:"read"`
		Write fioWay `json:"write"`
		Sync  struct {
			Latency fioLatency `json:"lat_ns"`
		} `json:"sync"`
	} `json:"jobs"`
}

type fioWay struct {
	Bytes    int64      `json:"io_bytes"`
	Total    int64      `json:"total_ios"`
	IOPS     float64    `json:"iops"`
	PerSec   float64    `json:"bw_bytes"`
	Complete fioLatency `json:"clat_ns"`
}

type fioLatency struct {
	Percentile map[string]float64 `json:"percentile"`
}

// fio runs one job group in the side's directory. Its sample has iops, mib_s, latencies, and for a volume what its sidecar
// spent per operation. run 0: until the size is done.
func (b *bench) fio(ctx context.Context, s side, run time.Duration, args ...string) (sample, error) {
	args = append([]string{"--name=bench", "--directory=" + s.dir, "--ioengine=psync", "--group_reporting",
		"--output-format=json"}, args...)
	if run > 0 {
		args = append(args, fmt.Sprintf("--runtime=%dms", run.Milliseconds()))
	}
	before := b.spent(ctx, s)
	out, err := b.run(ctx, run+2*time.Minute, exec.Command("fio", args...))
	if err != nil {
		return nil, err
	}
	after := b.settled(ctx, s)
	var report fioReport
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("fio's report %.200q: %w", out, err)
	}
	if len(report.Jobs) != 1 || report.Jobs[0].Error != 0 {
		return nil, fmt.Errorf("fio's report %.200q: one job without error expected", out)
	}
	job := report.Jobs[0]
	way := job.Read
	if job.Write.Total > 0 {
		way = job.Write
	}
	got := sample{"iops": way.IOPS, "mib_s": way.PerSec / mib, operationsDone: float64(way.Total)}
	for _, p := range []string{"50", "99"} {
		got["p"+p+"_us"] = way.Complete.Percentile[p+".000000"] / 1e3
		if job.Sync.Latency.Percentile != nil {
			got["sync_p"+p+"_us"] = job.Sync.Latency.Percentile[p+".000000"] / 1e3
		}
	}
	after.addTo(got, before, way.Total, way.Bytes)
	return got, nil
}
