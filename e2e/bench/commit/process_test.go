package commit_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/heap"
	"github.com/remora-storage/remora/sidecar/identity"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/transport"
)

// member is a replica in its process, with what a sidecar has around it.
type member struct {
	ID        uint64
	Dir       string // of its disk directory
	Identity  string // of its certificate; empty: a group of one
	Key       []byte
	addresses sync.Map // of the others, by ID
	disk      *replication.Disk
	group     atomic.Pointer[replication.Group] // nil until it is open
	keys      *seal.Keys
	net       *transport.Transport
}

var members = []uint64{1, 2, 3}

var pods = []string{podOf(0), podOf(1), podOf(2), podOf(3)}

var keep sync.Once

const (
	tenant       = "bench"
	volume       = "data"
	group        = 9
	segmentBytes = 16 << 20
)

func podOf(id uint64) string { return fmt.Sprintf("db-%d", id) }

// listen takes an address; open opens the replica when those of the others are known.
func (m *member) listen(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		keep.Do(func() { heap.Keep() }) // as a sidecar
	}
	if m.Identity == "" {
		return nil
	}
	files, err := identity.Open(identity.FilesConfig{Dir: m.Identity, Logger: slog.Default()})
	if err != nil {
		return err
	}
	m.net, err = transport.Open(ctx, transport.Config{Listen: "127.0.0.1:0", TLS: files.TLS, Self: files.Identity(), Handler: m, Logger: slog.Default()})
	return err
}

func (m *member) open() (err error) {
	dir, err := diskdir.Open(disk.OS, filepath.Join(m.Dir, "disk-0"), tenant, segmentBytes, rand.Reader)
	if err != nil {
		return err
	}
	r, err := dir.CreateReplica(diskdir.ReplicaInfo{Replica: diskdir.ID(m.ID), Group: group, VolumeUID: "uid", Volume: volume})
	if err != nil {
		return err
	}
	if m.disk, err = replication.OpenDisk(replication.Config{FS: disk.OS, Rand: rand.Reader, Logger: slog.Default()}, dir); err != nil {
		return err
	}
	if m.keys, err = seal.New(m.Key, tenant); err != nil {
		return err
	}
	cfg := replication.GroupConfig{Replica: r, Keys: m.keys, Logger: slog.Default()}
	if m.net != nil {
		cfg.Peers = &replication.PeersConfig{Founders: members, Send: m.send, Flush: m.flush, Fetch: m.fetch}
	}
	g, err := m.disk.OpenGroup(cfg)
	m.group.Store(g)
	return err
}

func (m *member) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := errors.Join(m.group.Load().Close(ctx), m.disk.Close())
	if m.net != nil {
		err = errors.Join(err, m.net.Close())
	}
	return err
}

func (m *member) address(id uint64) string {
	addr, _ := m.addresses.Load(id)
	text, _ := addr.(string)
	return text
}

func (m *member) header(kind uint8, to uint64) transport.Header {
	return transport.Header{Kind: kind, Group: group, From: m.ID, To: to}
}

func (m *member) send(to uint64, kind uint8, parts ...[]byte) {
	m.net.Queue(m.address(to), m.header(kind, to), parts...)
}

func (m *member) flush(to uint64) { m.net.Flush(m.address(to)) }

func (m *member) fetch(ctx context.Context, from uint64, request []byte) (io.ReadCloser, error) {
	h := m.header(1, from)
	return m.net.Bulk(ctx, m.address(from), transport.Request{Kind: h.Kind, Group: h.Group, From: h.From, To: h.To, Body: request})
}

// Authorize, and what follows, is what a sidecar answers its transport.
func (m *member) Authorize(p transport.Identity, g, from, to uint64) error {
	if !m.Allows(p, g, from, to) {
		return fmt.Errorf("%s is not replica %d", p, from)
	}
	return nil
}

func (m *member) Allows(p transport.Identity, _, from, _ uint64) bool {
	return from < uint64(len(pods)) && p.Pod == pods[from] && p.Has(volume)
}

func (m *member) Receive(_ transport.Identity, f transport.Frame) {
	g := m.group.Load()
	if g == nil {
		return // it is sent again
	}
	if err := g.Deliver(f.Kind, f.From, f.Body); err != nil {
		slog.Warn("frame", "err", err)
	}
}

func (m *member) Drained() {
	if m.group.Load() != nil {
		m.disk.Commit()
	}
}

func (m *member) Bulk(ctx context.Context, _ transport.Identity, r transport.Request, w io.Writer) error {
	g := m.group.Load()
	if g == nil {
		return errors.New("not open yet")
	}
	return g.Bulk(ctx, r.Body, w)
}

// child is another process with a member.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

const childEnv = "REMORA_BENCH_COMMIT"

func startChild(m *member) (*child, string, error) {
	encoded, err := json.Marshal(m)
	if err != nil {
		return nil, "", err
	}
	c := &child{cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env, c.cmd.Stderr = append(os.Environ(), childEnv+"="+string(encoded)), os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return nil, "", errors.Join(err, c.close())
	}
	var addr string
	return c, addr, json.Unmarshal(line, &addr)
}

// close ends the process.
func (c *child) close() error {
	_ = c.in.Close() // it ends then
	kill := time.AfterFunc(time.Minute, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	return c.cmd.Wait()
}

// serveChild is the life of such a process: it says where it listens, hears where the others do, and serves until its standard input ends.
func serveChild(encoded string) error {
	m := &member{}
	if err := json.Unmarshal([]byte(encoded), m); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := m.listen(ctx); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(m.net.Addr()); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	var where map[uint64]string
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &where); err != nil {
		return err
	}
	for id, addr := range where {
		m.addresses.Store(id, addr)
	}
	if err := m.open(); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, in)
	return m.close()
}

func ownCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // it does not fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spent is the processor time of another process so far, in ticks of 10 ms.
func (c *child) spent() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var user, system int64
	if fields := strings.Fields(rest); len(fields) > 12 {
		user, _ = strconv.ParseInt(fields[11], 10, 64)
		system, _ = strconv.ParseInt(fields[12], 10, 64)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
