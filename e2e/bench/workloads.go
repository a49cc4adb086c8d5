package main

import (
	"context"
	"slices"
)

// workload is one thing to measure on both sides.
type workload struct {
	name    string
	extra   bool                                                // only with -all or by name
	warm    bool                                                // measured twice, the first time in vain: see bench.measure
	prepare func(context.Context, *bench, side) error           // once per side, not measured; nil: nothing
	measure func(context.Context, *bench, side) (sample, error) // once per round and side, from a clean page cache
	rows    []row                                               // what the table shows of a sample
	counts  string                                              // the operation of which FUSE requests are counted; its sample has operationsDone
}

// operationsDone is the metric that says how often the application did what a workload counts.
const operationsDone = "operations"

// sample is one measurement: values by metric. Those without a row are in the JSON only.
type sample map[string]float64

// row is one line of the table.
type row struct {
	metric string
	title  string
	unit   string
	goal   float64 // the ratio that FILESYSTEM promises; 0: none
	most   float64 // or the largest value of the volume itself
	own    bool    // the plain directory has no such value
}

// workloads is everything that bench can measure. Sizes are chosen so that a run of the default set takes seven minutes.
func workloads() []workload {
	return slices.Concat(writes(), replication(), reads(), metadata(), databases())
}

func writes() []workload {
	return []workload{
		{name: "w1", prepare: layOut("w1.", 1, 256*mib), measure: randomWrite("w1.", 1, 256*mib), counts: "4 KiB random write, fsync (w1)", rows: []row{
			{metric: "iops", title: "4 KiB random write + fsync, 1 job", unit: "IOPS", goal: 0.6},
			{metric: "cpu_us", title: "  CPU of the sidecar per operation", unit: "us", own: true},
			{metric: "amplification", title: "  bytes to the disk per byte", unit: "x", own: true},
		}},
		{name: "w2", prepare: layOut("w2.", 4, 64*mib), measure: randomWrite("w2.", 4, 64*mib), rows: []row{
			{metric: "iops", title: "4 KiB random write + fsync, 4 jobs", unit: "IOPS", goal: 0.7},
			{metric: "cpu_us", title: "  CPU of the sidecar per operation", unit: "us", own: true},
		}},
		{name: "amp", prepare: layOut("a.", 1, 256*mib), measure: overwrite8k("a.", 256*mib), rows: []row{
			{metric: "iops", title: "8 KiB random overwrite + fdatasync", unit: "IOPS"},
			{metric: "amplification", title: "  bytes to the disk per byte", unit: "x", own: true, most: 2.2},
		}},
		{name: "w4", warm: true, measure: sequentialWrite(512 * mib), rows: []row{
			{metric: "mib_s", title: "sequential write 1 MiB, fsync at the end", unit: "MiB/s", goal: 0.5},
			{metric: "cpu_us", title: "  CPU of the sidecar per MiB", unit: "us", own: true},
			{metric: "amplification", title: "  bytes to the disk per byte", unit: "x", own: true},
		}},
	}
}

func replication() []workload {
	return []workload{{name: "replication", extra: true, measure: replicated, rows: replicationRows()}}
}

func reads() []workload {
	lay := layOut("r.", 1, 512*mib)
	return []workload{
		{name: "w3", prepare: lay, measure: randomRead("r.", 512*mib, false, 1), rows: []row{
			{metric: "iops", title: "4 KiB random read, buffered, cold", unit: "IOPS"},
		}},
		{name: "w3d", prepare: lay, measure: randomRead("r.", 512*mib, true, 1), rows: []row{
			{metric: "iops", title: "4 KiB random read, O_DIRECT, depth 1", unit: "IOPS", goal: 0.5},
		}},
		{name: "w3q", prepare: lay, measure: randomRead("r.", 512*mib, true, 16), rows: []row{
			{metric: "iops", title: "4 KiB random read, O_DIRECT, depth 16", unit: "IOPS", goal: 0.16},
		}},
		{name: "w5", prepare: lay, measure: sequentialRead("r.", 512*mib), rows: []row{
			{metric: "cold_mib_s", title: "sequential read 1 MiB, cold", unit: "MiB/s", goal: 0.7},
			{metric: "hot_mib_s", title: "sequential read 1 MiB, hot", unit: "MiB/s", goal: 0.9},
		}},
	}
}

func metadata() []workload {
	return []workload{
		{name: "w6", warm: true, measure: smallFiles(smallFilesArgs{Files: 10_000, Dirs: 10, Size: 1024}), rows: []row{
			{metric: "create", title: "create 10,000 files of 1 KiB in 10 directories", unit: "1/s", goal: 0.5},
			{metric: "cpu_us", title: "  CPU of the sidecar per file created", unit: "us", own: true},
			{metric: "stat_first", title: "  stat them, the first time since they were written", unit: "1/s"},
			{metric: "stat", title: "  stat them again: cached entries", unit: "1/s", goal: 0.5},
			{metric: "rename", title: "  rename them", unit: "1/s"},
			{metric: "unlink", title: "  unlink them", unit: "1/s"},
		}},
		{name: "w6f", warm: true, measure: smallFiles(smallFilesArgs{Files: 1000, Dirs: 10, Size: 1024, Fsync: true}), rows: []row{
			{metric: "create", title: "create 1,000 files of 1 KiB, fsync each", unit: "1/s", goal: 0.4},
			{metric: "cpu_us", title: "  CPU of the sidecar per file", unit: "us", own: true},
		}},
		{name: "readdir", prepare: fillDirs, measure: readDirs, rows: []row{
			{metric: "ten", title: "list 10 directories of 1,000 names, cold", unit: "names/s"},
			{metric: "one", title: "list a directory of 10,000 names, cold", unit: "names/s"},
			{metric: "find", title: "list and stat the 10 directories, cold", unit: "names/s"},
			{metric: "find_hot", title: "  the same again", unit: "names/s"},
		}},
		{name: "requests", measure: countOperations},
		{name: "million", extra: true, measure: million, rows: []row{
			{metric: "create", title: "create 1,000,000 empty files in 1,000 directories", unit: "1/s"},
			{metric: "find", title: "  list and stat them, cold", unit: "names/s"},
			{metric: "created_mib", title: "  memory after creating them (RSS)", unit: "MiB", own: true, most: 120},
			{metric: "listed_mib", title: "  memory after listing them", unit: "MiB", own: true, most: 120},
			{metric: "forgotten_mib", title: "  memory when the kernel has forgotten them", unit: "MiB", own: true, most: 120},
		}},
	}
}

func databases() []workload {
	return []workload{
		{name: "sqlite", warm: true, measure: sqliteCommits(4000), counts: "SQLite commit (WAL, FULL)", rows: []row{
			{metric: "tps", title: "SQLite commits, WAL, synchronous=FULL", unit: "1/s", goal: 0.5},
			{metric: "cpu_us", title: "  CPU of the sidecar per commit", unit: "us", own: true},
		}},
		{name: "pgbench", prepare: pgInit(10), measure: pgBench(4), counts: "pgbench transaction, 4 clients", rows: []row{
			{metric: "tps", title: "pgbench, scale 10, 4 clients", unit: "1/s", goal: 0.7},
		}},
	}
}

func names() []string {
	var names []string
	for _, w := range workloads() {
		names = append(names, w.name)
	}
	return names
}

// chosen are the workloads of a run, in the order of the table.
func chosen(cfg Config) []workload {
	return slices.DeleteFunc(workloads(), func(w workload) bool {
		if len(cfg.Only) > 0 {
			return !slices.Contains(cfg.Only, w.name)
		}
		return w.extra && !cfg.All
	})
}
