package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const mountinfo = `22 1 253:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:51 / /srv/with\040blank rw - xfs /dev/vdb rw
77 22 0:52 / /var/tmp/b/remora/pods/bench-0/data rw,nosuid shared:9 - fuse.remora remora rw,user_id=0
78 22 0:53 / /var/tmp/other/remora/pods/bench-0/data rw - fuse.remora remora rw
79 22 0:54 / /var/tmp/b/remora/tmp rw - tmpfs tmpfs rw
`

func TestMountsBelowOneDirectory(t *testing.T) {
	require.Equal(t, []fuseMount{{52, "/var/tmp/b/remora/pods/bench-0/data"}}, parseMounts(mountinfo, "/var/tmp/b/remora"))
	require.Empty(t, parseMounts(mountinfo, "/var/tmp/b/rem"))
}

func TestDiskOf(t *testing.T) {
	for dir, want := range map[string][2]string{
		"/var/tmp/x":         {"ext4", "/dev/vda"},
		"/srv/with blank/x":  {"xfs", "/dev/vdb"},
		"/srv/with blanks/x": {"ext4", "/dev/vda"},
	} {
		fileSystem, device := diskOf(mountinfo, dir)
		require.Equal(t, want, [2]string{fileSystem, device}, dir)
	}
}

func TestReportRows(t *testing.T) {
	r := Report{Started: time.Now(), Rounds: 3, Sides: [2]string{"plain", "remora"}, Samples: map[string][]sample{}}
	r.workloads = []workload{{name: "w", rows: []row{
		{metric: "iops", title: "writes", unit: "IOPS", goal: 0.6},
		{metric: "cpu_us", title: "CPU", unit: "us", own: true, most: 50},
		{metric: "none", title: "nobody measured this"},
	}}}
	for i, v := range []float64{100, 300, 200} {
		r.add("w", "plain", sample{"iops": v})
		r.add("w", "remora", sample{"iops": v / float64(i+1), "cpu_us": 40}) // ratios 1, 1/2, 1/3
	}
	r.finish()
	require.Len(t, r.Rows, 2)
	require.InDelta(t, 100.0/200.0, *r.Rows[0].Ratio, 1e-9)
	require.InDelta(t, 1.0/3, *r.Rows[0].Low, 1e-9)
	require.InDelta(t, 1.0, *r.Rows[0].High, 1e-9)
	require.Nil(t, r.Rows[1].Medians[0])
	require.Nil(t, r.Rows[1].Ratio)

	var out bytes.Buffer
	require.NoError(t, r.table(&out))
	require.Contains(t, out.String(), "0.50")
	require.Regexp(t, `>= 0\.60 *\| no `, out.String())
	require.Regexp(t, `<= 50 *\| yes `, out.String())
}

func TestWorkloadsAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range names() {
		require.False(t, seen[name], name)
		seen[name] = true
	}
	_, err := parse([]string{"-only", "w1,nothing"})
	require.ErrorContains(t, err, `"nothing": unknown workload`)
}

func TestRequestsPerOperation(t *testing.T) {
	metrics := `# TYPE remora_fuse_request_duration_seconds histogram
remora_fuse_request_duration_seconds_bucket{op="write",volume="a",le="1e-06"} 7
remora_fuse_request_duration_seconds_count{op="write",volume="a"} %d
remora_fuse_request_duration_seconds_count{op="fsync",volume="a"} 10
remora_fuse_request_duration_seconds_count{op="write",volume="b"} 1e+06
`
	before, after := requests{}, requests{}
	require.NoError(t, before.add(fmt.Sprintf(metrics, 100)))
	require.NoError(t, after.add(fmt.Sprintf(metrics, 130)))
	require.Equal(t, requests{"write": 1000100, "fsync": 10}, before)
	row := after.row(before, "three writes", 10)
	require.Equal(t, RequestRow{Operation: "three writes", Requests: 3, ByOp: map[string]float64{"write": 3}}, row)
	require.Equal(t, "write 3.00", row.which())
	require.Equal(t, "lookup 2.00, create 1.00, write 1.00",
		RequestRow{ByOp: map[string]float64{"write": 1, "create": 1, "lookup": 2, "forget": 0.001}}.which())

	require.Error(t, requests{}.add(requestCount+`volume="a"} 3`))
	require.Error(t, requests{}.add(requestCount+`op="write",volume="a"} many`))
}

// Each operation must work where those before it have been done, and clean up what the next ones do not expect.
func TestOperations(t *testing.T) {
	dir, titles := t.TempDir(), map[string]bool{}
	for i, op := range operations() {
		require.False(t, titles[op.title], op.title)
		titles[op.title] = true
		require.NoError(t, doOperation(operationArgs{Index: i, Dir: dir}))
	}
	left, err := readNames(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"log"}, left)
}

func TestReadDirs(t *testing.T) {
	args := fillArgs{Dir: t.TempDir(), Dirs: 3, Each: 5}
	_, err := fill(args)
	require.NoError(t, err)
	for _, dir := range args.dirs() {
		n, err := listDir(dir, true)
		require.NoError(t, err)
		require.Equal(t, 5, n)
	}
	got, err := runList(listArgs{Dirs: args.dirs()})
	require.NoError(t, err)
	require.Positive(t, got["names"])
}

func TestSmallFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "small")
	args := smallFilesArgs{Dir: dir, Files: 20, Dirs: 2, Size: 100, Fsync: true}
	got, err := runSmallFiles(args)
	require.NoError(t, err)
	require.Positive(t, got["create"])
	require.DirExists(t, dir)
	args.Rest = true
	got, err = runSmallFiles(args)
	require.NoError(t, err)
	for _, op := range []string{"stat_first", "stat", "rename", "unlink"} {
		require.Positive(t, got[op], op)
	}
	require.NoDirExists(t, dir)
}

func TestLayWritesEveryByteOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, lay(layArgs{File: file, Size: 2*mib + 5}))
	first, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Len(t, first, 2*mib+5)
	require.NotContains(t, string(first), string(make([]byte, 64)))
}

func TestCommandsHaveAnEnd(t *testing.T) {
	b := &bench{logf: func(string, ...any) {}}
	start := time.Now()
	_, err := b.run(t.Context(), 50*time.Millisecond, exec.Command("sh", "-c", "sleep 60 & sleep 60"))
	require.ErrorContains(t, err, "no end within 50ms")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.run(ctx, time.Minute, exec.Command("sleep", "60"))
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(start), 5*time.Second)

	_, err = b.run(t.Context(), time.Minute, exec.Command("sh", "-c", "echo why >&2; exit 3"))
	require.ErrorContains(t, err, "why")
}

// A supervisor that ends before its volume serves: the error says what it said, and nothing stays.
func TestSupervisorThatDoesNotServe(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "remora")
	require.NoError(t, os.WriteFile(fake, []byte("#!/bin/sh\necho no such class >&2\nexit 1\n"), 0o755))
	cfg := Config{Remora: fake, Volume: "v.yaml", Dir: dir, Rounds: 1, Timed: time.Second, Out: io.Discard, Log: io.Discard}
	require.ErrorContains(t, Run(t.Context(), cfg), "no such class")
	left, err := filepath.Glob(filepath.Join(dir, "remora-bench-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
