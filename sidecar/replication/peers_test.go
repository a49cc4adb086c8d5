package replication_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// trio is a group in one process: nodes with a disk in memory each, and a network that can be cut.
type trio struct {
	t     *testing.T
	key   []byte
	epoch record.Epoch
	mu    sync.Mutex
	nodes map[uint64]*node
	cut   map[[2]uint64]bool // from, to

	object   []replication.Member // what the Volume object says
	at       uint64
	filled   map[uint64]bool
	copies   int                 // 0: three
	tick     time.Duration       // 0: 10 ms
	log      int64               // bytes of the log that are kept for those who are away; 0: 16 MiB
	forge    func(letter) []byte // what arrives of a frame instead; nil: what was sent
	tap      func(letter)        // sees every frame that arrives; nil: nobody does
	keep     int64               // bytes that a witness keeps for a member that is away; 0: 256 MiB
	slow     chan struct{}       // bulk requests are answered when it is closed; nil: at once
	fillRate int64               // bytes a second; 0: as usual
	bare     uint64              // this node is given no content that it asks for
	after    func(time.Duration, func())
	unsummed atomic.Int64 // parts of much content whose checksums are not known
	wire     bool         // frames are delivered as the transport does it
}

// node is a replica of a trio.
type node struct {
	trio  *trio
	id    uint64
	fs    disk.FS
	said  sayings
	inbox chan func(g *replication.Group)
	disk  *replication.Disk
	dir   *diskdir.Dir
	group *replication.Group
	keys  *seal.Keys
	fs1   *cachefs.FS
	alone bool // a group of one
	dead  bool // since its power cut
	ended sync.WaitGroup
}

func newTrio(t *testing.T, founders ...uint64) *trio { return newSlowTrio(t, 0, founders...) }

// newSlowTrio has a clock of its own.
func newSlowTrio(t *testing.T, tick time.Duration, founders ...uint64) *trio {
	c := &trio{t: t, tick: tick, key: make([]byte, seal.KeySize), nodes: map[uint64]*node{}, cut: map[[2]uint64]bool{}, filled: map[uint64]bool{}}
	_, _ = rand.Read(c.key)
	for _, id := range founders {
		c.object = append(c.object, replication.Member{ID: id, Role: replication.Voter})
	}
	for _, id := range founders {
		c.add(id, founders)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
	})
	return c
}

func (c *trio) add(id uint64, founders []uint64) *node {
	n := c.empty(id)
	n.start(founders)
	return n
}

// empty makes a node with an empty replica.
func (c *trio) empty(id uint64) *node { return c.emptyOn(vfs.NewCrashableMem(), id) }

func (c *trio) emptyOn(fs disk.FS, id uint64) *node {
	n := &node{trio: c, id: id, fs: fs}
	dir, err := diskdir.Open(n.fs, "disk-0", "tenant", 4<<20, rand.Reader)
	require.NoError(c.t, err)
	r, err := dir.CreateReplica(diskdir.ReplicaInfo{Replica: diskdir.ID(id), Group: 9, VolumeUID: "uid", Volume: "v"})
	require.NoError(c.t, err)
	require.NoError(c.t, r.Close())
	require.NoError(c.t, dir.Close())
	c.mu.Lock()
	c.nodes[id] = n
	c.mu.Unlock()
	return n
}

func (n *node) start(founders []uint64) {
	require.NoError(n.trio.t, n.tryStart(founders))
}

// tryStart returns why the replica cannot be opened.
func (n *node) tryStart(founders []uint64) error {
	t := n.trio.t
	log := slog.New(slog.NewTextHandler(testWriter{t, n.id, &n.said}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	dir, err := diskdir.Open(n.fs, "disk-0", "tenant", 4<<20, rand.Reader)
	require.NoError(t, err)
	n.dir = dir
	n.disk, err = replication.OpenDisk(replication.Config{FS: n.fs, Rand: rand.Reader, Logger: log, CheckpointBytes: 1 << 20, MemTableBytes: 256 << 10}, dir)
	require.NoError(t, err)
	n.keys, err = seal.New(n.trio.key, "tenant")
	require.NoError(t, err)
	r, err := dir.OpenReplica(diskdir.ID(n.id))
	require.NoError(t, err)
	inbox := make(chan func(*replication.Group), 4096)
	peers := &replication.PeersConfig{Founders: founders, Tick: cmp.Or(n.trio.tick, 10*time.Millisecond), SendSummed: n.sendSummed, Fetch: n.fetch, Members: n.trio.members, Copies: n.trio.wanted, Node: func(id uint64) string { return fmt.Sprintf("node-%d", id) },
		Changed: n.trio.changed, LogBytes: n.trio.log, KeepBytes: n.trio.keep, FillRate: n.trio.fillRate, Witness: n.trio.isWitness(n.id), After: n.trio.after}
	if peers.Witness {
		n.keys = nil
	}
	if n.alone {
		peers = nil
	}
	g, err := n.disk.OpenGroup(replication.GroupConfig{Replica: r, Keys: n.keys, Logger: log, Peers: peers})
	if err != nil {
		require.NoError(t, errors.Join(r.Close(), n.disk.Close()))
		return err
	}
	n.trio.mu.Lock()
	n.group, n.inbox, n.dead = g, inbox, false
	n.trio.mu.Unlock()
	n.ended.Go(func() {
		for deliver := range inbox {
			deliver(g)
		}
	})
	return nil
}

func (n *node) stop() {
	n.trio.mu.Lock()
	g, inbox := n.group, n.inbox
	n.group, n.inbox = nil, nil
	n.trio.mu.Unlock()
	if g == nil {
		return
	}
	if n.fs1 != nil {
		n.fs1.Close()
		n.fs1 = nil
	}
	close(inbox)
	n.ended.Wait()
	_ = g.Close(context.Background())
	_ = n.disk.Close()
}

// crash is a power cut.
func (n *node) crash() {
	n.trio.mu.Lock()
	n.dead = true // what it syncs from here on, nobody hears of
	n.trio.mu.Unlock()
	after := n.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	n.stop()
	n.fs = after
}

// sendSummed is send that looks at the checksums, too: a frame of which they are wrong ends the connection to the peer.
func (n *node) sendSummed(to uint64, kind uint8, sums []func(int) uint32, parts ...[]byte) {
	for i, p := range parts {
		if i < len(sums) && sums[i] != nil {
			for k := range len(p) / record.BlockSize {
				if record.Checksum(p[k*record.BlockSize:][:record.BlockSize]) != sums[i](k) {
					n.trio.t.Errorf("the checksum of block %d of part %d of a frame of kind %d is wrong", k, i, kind) // under locks: the test goes on
					break
				}
			}
		} else if len(p) > 1<<19 {
			n.trio.unsummed.Add(1)
		}
	}
	n.send(to, kind, parts...)
}

func (n *node) send(to uint64, kind uint8, parts ...[]byte) {
	body := bytes.Join(parts, nil)
	c := n.trio
	c.mu.Lock()
	defer c.mu.Unlock()
	peer := c.nodes[to]
	if n.dead || peer == nil || peer.inbox == nil || c.cut[[2]uint64{n.id, to}] {
		return
	}
	if c.forge != nil {
		body = c.forge(letter{n.id, to, kind, body})
	}
	if c.tap != nil {
		c.tap(letter{n.id, to, kind, bytes.Clone(body)})
	}
	wire := c.wire
	select {
	case peer.inbox <- func(g *replication.Group) {
		receive, drained := g.Receive, func() {}
		if wire {
			receive, drained = g.Deliver, peer.disk.Commit
		}
		if err := receive(kind, n.id, body); err != nil {
			c.t.Logf("from %d to %d: %v", n.id, to, err)
		}
		drained()
	}:
	default:
	}
}

// fetch answers bulk requests.
func (n *node) fetch(ctx context.Context, from uint64, request []byte) (io.ReadCloser, error) {
	c := n.trio
	c.mu.Lock()
	defer c.mu.Unlock()
	peer := c.nodes[from]
	if peer == nil || peer.group == nil || c.cut[[2]uint64{n.id, from}] || n.id == c.bare && request[0] == replication.BulkContent {
		return nil, fmt.Errorf("%d does not answer", from)
	}
	g, slow := peer.group, c.slow
	r, w := io.Pipe()
	go func() {
		if slow != nil {
			select {
			case <-slow:
			case <-ctx.Done():
			}
		}
		_ = w.CloseWithError(g.Bulk(ctx, request, w))
	}()
	return r, nil
}

// wanted is how many copies there shall be.
func (c *trio) wanted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.copies, 3)
}

// members is what the Volume object would say.
func (c *trio) members() []replication.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.object)
	for i := range all {
		if n := c.nodes[all[i].ID]; n != nil && n.group != nil && all[i].Role == replication.Learner {
			all[i].Filled = c.filled[all[i].ID]
		}
	}
	return all
}

// changed makes the object what the group is.
func (c *trio) changed(index uint64, voters, learners []uint64, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !leads || index < c.at {
		return
	}
	c.at = index
	c.object = slices.DeleteFunc(c.object, func(m replication.Member) bool {
		return m.Role != replication.Learner && !slices.Contains(voters, m.ID) && !slices.Contains(learners, m.ID)
	})
	for i := range c.object {
		if m := &c.object[i]; m.Role == replication.Voter && slices.Contains(learners, m.ID) {
			m.Role = replication.Learner
		}
		if m := &c.object[i]; m.Role == replication.Learner && slices.Contains(voters, m.ID) {
			m.Role = replication.Voter
		}
	}
}

func (c *trio) isWitness(id uint64) bool {
	return slices.ContainsFunc(c.members(), func(m replication.Member) bool { return m.ID == id && m.Witness })
}

// replace has a voter leave for a new replica.
func (c *trio) replace(old, by uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.object {
		if c.object[i].ID == old {
			c.object[i].Role = replication.Leaving
		}
	}
	c.object = append(c.object, replication.Member{ID: by, Role: replication.Learner})
}

// own opens an epoch and the file system at a node.
func (n *node) own(format bool) {
	t := n.trio.t
	_, err := n.group.Recover(t.Context())
	require.NoError(t, err)
	n.trio.epoch++
	name := record.Name{Epoch: n.trio.epoch, Incarnation: record.Incarnation(n.trio.epoch)}
	salt := make([]byte, 8+seal.SaltSize)
	meta.PutEpoch(salt, n.trio.epoch)
	_, _ = rand.Read(salt[8:])
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, n.group.BeginEpoch(ctx, &record.Record{Header: record.Header{Kind: record.Owner, Name: name},
		Muts: []record.Mutation{{Key: meta.SaltKey(uint32(name.Incarnation)), Value: salt}}}))
	n.fs1, err = cachefs.Open(ctx, cachefs.Config{Log: n.group, State: n.group.Store(), Source: n.group, Keys: n.keys, Epoch: name.Epoch, Incarnation: name.Incarnation,
		Session: uint64(n.trio.epoch), NewSession: true, Size: 1 << 30, Free: n.group.Free, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, format)
	require.NoError(t, err)
}

// state is what all replicas must have alike: the replicated keys.
func (n *node) state() map[string]string {
	all := map[string]string{}
	require.NoError(n.trio.t, n.group.Store().Scan([]byte{0}, []byte{meta.LocalPrefix}, func(k, v []byte) error {
		all[string(k)] = string(v)
		return nil
	}))
	return all
}

// agree waits until all nodes have applied the same, and compares them.
func (c *trio) agree() {
	var last record.Index
	for _, n := range c.nodes {
		if n.group != nil {
			last = max(last, n.group.Status().Committed)
		}
	}
	var want map[string]string
	for id, n := range c.nodes {
		if n.group == nil || n.group.Store() == nil {
			continue
		}
		require.Eventually(c.t, func() bool { return n.group.Status().Applied >= last }, 10*time.Second, time.Millisecond, "node %d: %+v", id, n.group.Status().Group)
		if got := n.state(); want == nil {
			want = got
		} else {
			require.Equal(c.t, len(want), len(got))
			require.Equal(c.t, want, got, "node %d", id)
		}
	}
}

type testWriter struct {
	t  *testing.T
	id uint64
	// said is all of it.
	said *sayings
}

// sayings is what a process has logged.
type sayings struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sayings) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.b.Bytes(), []byte(text))
}

func (w testWriter) Write(b []byte) (int, error) {
	w.said.mu.Lock()
	w.said.b.Write(b)
	w.said.mu.Unlock()
	if w.t.Context().Err() == nil {
		w.t.Logf("%d: %s", w.id, bytes.TrimSpace(b))
	}
	return len(b), nil
}

// file writes a file and syncs it.
func (n *node) file(name string, size int) {
	n.unsynced(name, size)
	require.NoError(n.trio.t, n.fs1.Sync(n.trio.t.Context(), &cachefs.Caller{}))
}

func (n *node) unsynced(name string, size int) {
	t := n.trio.t
	caller := &cachefs.Caller{}
	a, err := n.fs1.Create(caller, meta.Root, name, cachefs.Node{Mode: syscall.S_IFREG | 0o600})
	require.NoError(t, err)
	content := bytes.Repeat([]byte(name+"|"), size/(len(name)+1)+1)[:size]
	for off := 0; off < size; off += 1 << 20 {
		_, err := n.fs1.Write(caller, a.Ino, uint64(off), content[off:min(size, off+1<<20)], false)
		require.NoError(t, err)
	}
}

func (n *node) check(name string, size int) {
	t := n.trio.t
	a, err := n.fs1.Lookup(meta.Root, name)
	require.NoError(t, err)
	got := make([]byte, size+1)
	k, err := n.fs1.Read(&cachefs.Caller{}, a.Ino, 0, got)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte(name+"|"), size/(len(name)+1)+1)[:size], got[:k])
}

func TestThreeReplicas(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	n := c.nodes[1]
	n.own(true)
	for i := range 20 {
		n.file(fmt.Sprintf("small-%d", i), 100*i)
	}
	n.file("large", 5<<20)
	c.agree()
	c.nodes[3].crash() // a follower goes, and comes back
	n.file("without", 300_000)
	c.nodes[3].start(nil)
	n.file("with", 300_000)
	c.agree()
	n.crash() // the owner goes, and node 2 takes over
	o := c.nodes[2]
	o.own(false)
	for i := range 20 {
		o.check(fmt.Sprintf("small-%d", i), 100*i)
	}
	o.check("large", 5<<20)
	o.check("without", 300_000)
	o.check("with", 300_000)
	o.file("after", 10_000)
	n.start(nil)
	c.agree()
}

// TestMovedOwner: the owner's node is lost with its disk. A new, empty replica elsewhere owns the volume at once, as a learner; it is
// filled, becomes a voter in the place of the lost one, and has everything then.
func TestMovedOwner(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	n := c.nodes[1]
	n.own(true)
	for i := range 20 {
		n.file(fmt.Sprintf("small-%d", i), 100*i)
	}
	n.file("large", 9<<20)
	c.lose(1)
	c.replace(1, 4)
	o := c.add(4, nil)
	o.own(false)
	o.check("small-7", 700)
	o.check("large", 9<<20)
	o.file("after", 3<<20)
	require.Eventually(t, func() bool {
		c.mu.Lock()
		c.filled[4] = o.group.Filled()
		c.mu.Unlock()
		s := o.group.Status().Group
		return slices.Contains(s.Voters, 4) && !slices.Contains(s.Voters, 1) && !s.Joint // until then the lost one counts, and another loss blocks
	}, time.Minute, 10*time.Millisecond, "%+v", o.group.Status().Group)
	c.agree()
	c.lose(2) // what 4 has is a copy like any other
	o.file("later", 1<<20)
	c.lose(3)
	o.check("large", 9<<20)
	o.check("after", 3<<20)
	o.check("later", 1<<20)
}

// lose ends a node for good.
func (c *trio) lose(id uint64) {
	n := c.nodes[id]
	n.stop()
	c.mu.Lock()
	delete(c.nodes, id)
	c.mu.Unlock()
}
