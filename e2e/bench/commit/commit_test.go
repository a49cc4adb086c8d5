package commit_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/e2e/bench/quorum"
	"github.com/remora-storage/remora/sidecar/identity"
)

var (
	rounds = flag.Int("rounds", 1, "measurements of each")
	length = flag.Duration("for", 100*time.Millisecond, "of each measurement")
	only   = flag.String("only", "", "one of the names in the log; empty: all")
	depths = flag.String("depths", "1,16", "how many write at a time, with commas")
	count  = flag.Bool("instructions", false, "count instructions, switches of context and allocations of a volume: that makes it slower")
	peers  = flag.String("peers", "disk", "where the other two replicas are: disk, or tmpfs (as if each had a disk of its own)")
)

const (
	recordBytes = 4096
	// headers is what a record of 4 KiB has beside its content in Remora's journal and on its wire, about: the bare program carries as much.
	headers  = 160
	logBytes = 64 << 20
	fileSize = 4 << 20
)

// TestMain is also the other two, when it is started as one.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	var err error
	if text := os.Getenv(childEnv); text != "" {
		err = serveChild(text)
	} else if text := os.Getenv(childEnv + "_BARE"); text != "" {
		var args quorum.ReplicaArgs
		if err = json.Unmarshal([]byte(text), &args); err == nil {
			err = quorum.Replica(context.Background(), args, os.Stdin, os.Stdout)
		}
	} else {
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// figures of one measurement; times in microseconds.
type figures struct {
	perSecond, p50, p99, ownerCPU, peerCPU float64
	owner, peer                            counts
}

// TestCommit measures everything in turns, and prints medians.
func TestCommit(t *testing.T) {
	flag.Parse()
	names := []string{"bare, one log", "bare, three", "volume, one copy", "volume, three"}
	all := map[string][]figures{}
	var at []int
	for text := range strings.SplitSeq(*depths, ",") {
		depth, err := strconv.Atoi(text)
		require.NoError(t, err)
		at = append(at, depth)
	}
	for round := range *rounds {
		for _, depth := range at {
			for _, name := range names {
				if *only != "" && name != *only {
					continue
				}
				got := measure(t, name, depth)
				require.Positive(t, got.perSecond, name)
				key := fmt.Sprintf("%s, %d", name, depth)
				all[key] = append(all[key], got)
				t.Logf("round %d: %-20s depth %2d: %7.0f/s p50 %5.0f us p99 %6.0f us, CPU %3.0f us owner, %3.0f us a peer",
					round+1, name, depth, got.perSecond, got.p50, got.p99, got.ownerCPU, got.peerCPU)
				if *count {
					t.Logf("owner: %v; a peer: %v", got.owner, got.peer)
				}
			}
		}
	}
	if *only != "" {
		return
	}
	fmt.Println("| depth | | bare, one log | bare, three | ratio | volume, one copy | volume, three | ratio | three / bare three |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, depth := range at {
		for _, line := range []struct {
			what string
			of   func(figures) float64
		}{
			{"1/s", func(f figures) float64 { return f.perSecond }}, {"p50 us", func(f figures) float64 { return f.p50 }},
			{"p99 us", func(f figures) float64 { return f.p99 }}, {"CPU us, owner", func(f figures) float64 { return f.ownerCPU }},
			{"CPU us, a peer", func(f figures) float64 { return f.peerCPU }},
			{"1,000 instructions, owner", func(f figures) float64 { return f.owner.user + f.owner.kernel }},
			{"1,000 instructions, a peer", func(f figures) float64 { return f.peer.user + f.peer.kernel }},
		} {
			var v [4]float64
			for i, name := range names {
				v[i] = median(all[fmt.Sprintf("%s, %d", name, depth)], line.of)
			}
			if v[3] == 0 { // not counted
				continue
			}
			fmt.Printf("| %d | %s | %.0f | %.0f | %s | %.0f | %.0f | %s | %s |\n", depth, line.what, v[0], v[1], ratio(v[1], v[0]), v[2], v[3], ratio(v[3], v[2]), ratio(v[3], v[1]))
		}
	}
}

// ratio is empty where the other one was not counted, or has no such process.
func ratio(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}

func median(all []figures, of func(figures) float64) float64 {
	var values []float64
	for _, f := range all {
		values = append(values, of(f))
	}
	slices.Sort(values)
	return (values[len(values)/2] + values[(len(values)-1)/2]) / 2
}

func measure(t *testing.T, name string, depth int) figures {
	own, others := t.TempDir(), [2]string{t.TempDir(), t.TempDir()}
	if *peers == "tmpfs" {
		for i := range others {
			dir, err := os.MkdirTemp("/dev/shm", "remora-commit-")
			require.NoError(t, err)
			defer os.RemoveAll(dir)
			others[i] = dir
		}
	}
	switch name {
	case "bare, one log":
		return measureBare(t, own, others, depth, true)
	case "bare, three":
		return measureBare(t, own, others, depth, false)
	case "volume, one copy":
		return measureVolume(t, own, nil, depth)
	}
	return measureVolume(t, own, others[:], depth)
}

func measureBare(t *testing.T, own string, others [2]string, depth int, alone bool) figures {
	got, err := quorum.Run(t.Context(), quorum.Args{Dir: own, Peers: others, LogBytes: logBytes, Alone: alone, Depth: depth, Size: recordBytes + headers, For: *length},
		func(args quorum.ReplicaArgs) *exec.Cmd {
			encoded, err := json.Marshal(args)
			require.NoError(t, err)
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childEnv+"_BARE="+string(encoded))
			return cmd
		})
	require.NoError(t, err)
	n := float64(got.Records)
	return figures{perSecond: got.PerSecond, p50: micros(got.P50), p99: micros(got.P99), ownerCPU: micros(got.OwnerCPU) / n, peerCPU: micros(got.ReplicaCPU) / 2 / n}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// measureVolume opens a volume, here and in a process for each of the others, and writes.
func measureVolume(t *testing.T, own string, others []string, depth int) figures {
	key := make([]byte, seal.KeySize)
	_, err := rand.Read(key)
	require.NoError(t, err)
	m := &member{ID: 1, Dir: own, Key: key}
	var children []*child
	if others != nil {
		children = startOthers(t, m, others)
	} else {
		require.NoError(t, m.listen(t.Context()))
	}
	defer func() {
		for _, c := range children {
			require.NoError(t, c.close())
		}
	}()
	require.NoError(t, m.open())
	defer func() { require.NoError(t, m.close()) }()
	fs := format(t, m)
	defer fs.Close()
	files := make([]meta.Ino, depth)
	for i := range files {
		files[i] = newFile(t, fs, fmt.Sprintf("f%d", i))
	}
	before, cpu := make([]time.Duration, len(children)), ownCPU()
	counting, ownCount := make([]counters, len(children)), countOwn()
	for i, c := range children {
		before[i], counting[i] = c.spent(), countProcess(c.cmd.Process.Pid)
	}
	took, elapsed := write(t, fs, files)
	n := float64(len(took))
	got := figures{perSecond: n / elapsed.Seconds(), p50: micros(took[len(took)/2]), p99: micros(took[len(took)*99/100]), ownerCPU: micros(ownCPU()-cpu) / n,
		owner: ownCount.stop(n)}
	for i, c := range children {
		got.peerCPU += micros(c.spent()-before[i]) / n / float64(len(children))
		got.peer = got.peer.plus(counting[i].stop(n * float64(len(children))))
	}
	return got
}

// startOthers makes certificates, starts the processes of the others, and tells all where each listens.
func startOthers(t *testing.T, m *member, dirs []string) (children []*child) {
	root := t.TempDir()
	ca, err := identity.OpenCA(filepath.Join(root, "ca"), nil)
	require.NoError(t, err)
	certificate := func(id uint64) string {
		c, err := ca.Issue(identity.Identity{Tenant: tenant, Pod: podOf(id), Volumes: []string{volume}}, time.Hour)
		require.NoError(t, err)
		dir := filepath.Join(root, podOf(id))
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, identity.Write(dir, c))
		return dir
	}
	m.Identity = certificate(m.ID)
	require.NoError(t, m.listen(t.Context()))
	where := map[uint64]string{m.ID: m.net.Addr()}
	for i, id := range members[1:] {
		c, addr, err := startChild(&member{ID: id, Dir: dirs[i], Identity: certificate(id), Key: m.Key})
		require.NoError(t, err)
		where[id], children = addr, append(children, c)
	}
	for id, addr := range where {
		m.addresses.Store(id, addr)
	}
	line, err := json.Marshal(where)
	require.NoError(t, err)
	for _, c := range children {
		_, err := c.in.Write(append(line, '\n'))
		require.NoError(t, err)
	}
	return children
}

// format makes the file system, as the first owner.
func format(t *testing.T, m *member) *cachefs.FS {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g := m.group.Load()
	_, err := g.Recover(ctx)
	require.NoError(t, err)
	salt := make([]byte, 8+seal.SaltSize)
	meta.PutEpoch(salt, 1)
	_, err = rand.Read(salt[8:])
	require.NoError(t, err)
	require.NoError(t, g.BeginEpoch(ctx, &record.Record{Header: record.Header{Kind: record.Owner, Name: record.Name{Epoch: 1, Incarnation: 1}},
		Muts: []record.Mutation{{Key: meta.SaltKey(1), Value: salt}}}))
	fs, err := cachefs.Open(ctx, cachefs.Config{Log: g, State: g.Store(), Source: g, Keys: m.keys, Epoch: 1, Incarnation: 1, Session: 1, NewSession: true,
		Size: 1 << 30, Now: time.Now, Logger: slog.Default()}, true)
	require.NoError(t, err)
	return fs
}

// newFile is one that was written before.
func newFile(t *testing.T, fs *cachefs.FS, name string) meta.Ino {
	caller := &cachefs.Caller{}
	a, err := fs.Create(caller, meta.Root, name, cachefs.Node{Mode: syscall.S_IFREG | 0o600})
	require.NoError(t, err)
	for off := uint64(0); off < fileSize; off += 1 << 20 {
		_, err := fs.Write(caller, a.Ino, off, make([]byte, 1<<20), false)
		require.NoError(t, err)
	}
	require.NoError(t, fs.Sync(t.Context(), caller))
	return a.Ino
}

// write writes 4 KiB and syncs, in a goroutine for each file, and answers how long each took, sorted.
func write(t *testing.T, fs *cachefs.FS, files []meta.Ino) (took []time.Duration, elapsed time.Duration) {
	var done sync.WaitGroup
	each, errs := make([][]time.Duration, len(files)), make([]error, len(files))
	start := time.Now()
	for i, ino := range files {
		done.Go(func() {
			content, caller := make([]byte, recordBytes), &cachefs.Caller{}
			for off := uint64(0); errs[i] == nil && time.Since(start) < *length; off = (off + recordBytes) % fileSize {
				began := time.Now()
				if errs[i] = fs.Admit(); errs[i] != nil {
					break
				}
				_, err := fs.Write(caller, ino, off, content, false)
				errs[i] = errors.Join(err, fs.Sync(t.Context(), caller))
				each[i] = append(each[i], time.Since(began))
			}
		})
	}
	done.Wait()
	elapsed = time.Since(start)
	require.NoError(t, errors.Join(errs...))
	took = slices.Concat(each...)
	slices.Sort(took)
	return took, elapsed
}
