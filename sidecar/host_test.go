package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/webhook/spec"
)

// tenant is a tenant's nodes, Volume objects and the processes that serve its replicas, with groups that only pretend.
type tenant struct {
	t    *testing.T
	dir  string
	auth authority.Files
}

func newTenant(t *testing.T) *tenant {
	d := &tenant{t: t, dir: t.TempDir()}
	d.auth = authority.Files{Dir: filepath.Join(d.dir, "volumes")}
	require.NoError(t, os.MkdirAll(d.auth.Dir, 0o700))
	return d
}

// volume makes an object as the supervisor does.
func (d *tenant) volume(name, ownerNode string, nodes ...string) {
	o, err := authority.New("default", name)
	require.NoError(d.t, err)
	o.Replicas, o.Nodes, o.OwnerNode = 3, nodes, ownerNode
	_, err = d.auth.Update(d.t.Context(), o)
	require.NoError(d.t, err)
	require.NoError(d.t, os.MkdirAll(filepath.Join(d.dir, "keys"), 0o700))
	require.NoError(d.t, os.WriteFile(filepath.Join(d.dir, "keys", name+".key"), []byte(strings.Repeat("ab", 32)), 0o600))
}

// key is the ID of every volume's key here.
func (d *tenant) key() string {
	keys, err := seal.New(bytes.Repeat([]byte{0xab}, 32), "default")
	require.NoError(d.t, err)
	return keys.ID()
}

func (d *tenant) change(name string, change func(*v1alpha1.Volume)) {
	_, err := authority.Modify(d.t.Context(), d.auth, name, func(o *v1alpha1.Volume) error { change(o); return nil })
	require.NoError(d.t, err)
}

func (d *tenant) object(name string) v1alpha1.Volume {
	o, err := d.auth.Get(d.t.Context(), name)
	require.NoError(d.t, err)
	return o
}

// await polls all hosts until ok.
func (d *tenant) await(what string, ok func() bool, hosts ...*host) {
	d.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		for _, h := range hosts {
			h.poll(h.ctx)
		}
		if ok() {
			return
		}
	}
	d.t.Fatalf("no %s: %+v", what, d.hosts(hosts))
}

func (d *tenant) hosts(hosts []*host) (all []any) {
	list, err := d.auth.List(d.t.Context())
	all = append(all, list, err)
	for _, h := range hosts {
		all = append(all, h.report(), h.said)
	}
	return all
}

// process makes a host; it looks only when the test polls it. Without volumes it is a keeper.
func (d *tenant) process(node, pod string, volumes ...string) *host {
	cfg := Config{Mode: "dev", Pod: pod, Namespace: "default", Node: node, Disks: filepath.Join(d.dir, node), Keeper: len(volumes) == 0,
		Authority: "file:" + d.auth.Dir, Keys: "file:" + filepath.Join(d.dir, "keys"), Holder: "unix:/none", Identity: "file:/none",
		Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20}
	for _, v := range volumes {
		cfg.Volumes = append(cfg.Volumes, spec.Volume{Name: v, Size: 1 << 30, Class: "replicated", Replicas: 3, Sealing: v1alpha1.SealingOff})
	}
	cfg, err := cfg.withDefaults()
	require.NoError(d.t, err)
	h := newHost(&cfg, d.auth, &disks{cfg: &cfg}, openPretended)
	h.listen = func(*host) (network, error) { return pretendedNet(fmt.Sprintf("%s:%s", node, pod)), nil }
	h.ctx, h.stop = context.WithCancel(context.Background())
	for _, v := range cfg.Volumes {
		h.owner(cfg.volumeName(v), nil)
	}
	d.t.Cleanup(func() { d.end(h) })
	return h
}

// end ends a process; again is nothing.
func (d *tenant) end(h *host) {
	if h.ctx.Err() == nil {
		require.NoError(d.t, errors.Join(h.close(), h.disks.close()))
	}
}

type pretendedNet string

func (n pretendedNet) Addr() string { return string(n) }
func (n pretendedNet) Close() error { return nil }

// pretended is a group that is always well, and filled when it is told to be.
type pretended struct {
	what   opening
	mu     sync.Mutex
	filled bool
	alone  bool
	err    error
	says   *memberStatus // instead
}

func openPretended(_ context.Context, _ *host, _ *hosted, what opening) (hostedGroup, error) {
	return &pretended{what: what}, nil
}

func (p *pretended) Member() memberStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.says != nil {
		return *p.says
	}
	return memberStatus{CaughtUp: true, Filled: p.filled, WentAlone: p.alone, Err: p.err}
}

func (p *pretended) Close(context.Context) error { return p.what.replica.Close() }

// TestADirectoryOfAnother: who finds a disk directory served by another process says so, once, and serves it when that has ended.
func TestADirectoryOfAnother(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	var said bytes.Buffer
	second := d.process("b", "keeper-b2")
	second.cfg.Logger = slog.New(slog.NewTextHandler(&said, nil))
	for range 3 {
		second.poll(second.ctx)
	}
	require.Empty(t, second.report())
	require.Equal(t, 1, strings.Count(said.String(), "a disk directory here is left to the process that serves it"), said.String())
	require.Contains(t, said.String(), filepath.Join(d.dir, "b", "disk-0"))
	d.end(b)
	d.await("replica at the second", func() bool { return len(second.report()) == 1 }, owner, second, c)
}

func roles(o v1alpha1.Volume) map[string]string {
	m := map[string]string{}
	for _, member := range o.Members {
		m[member.Node] += member.Role
	}
	return m
}

// three makes a volume with its pod on node a and keepers on b and c.
func (d *tenant) three() (owner, b, c *host) {
	d.volume("data-db-0", "a", "a", "b", "c")
	owner, b, c = d.process("a", "db-0", "data"), d.process("b", "keeper-b"), d.process("c", "keeper-c")
	joined := make(chan error, 1)
	go func() { _, err := owner.joinOwn(d.t.Context(), "data-db-0", d.key()); joined <- err }()
	d.await("bootstrap", func() bool { return len(joined) == 1 }, owner, b, c)
	require.NoError(d.t, <-joined)
	return owner, b, c
}

func TestTheFirstMembersBeginTogether(t *testing.T) {
	d := newTenant(t)
	d.volume("data-db-0", "a", "a", "b", "c")
	b, c := d.process("b", "keeper-b"), d.process("c", "keeper-c")
	d.await("two members", func() bool { return len(d.object("data-db-0").Members) == 2 }, b, c)
	b.poll(b.ctx)
	require.Equal(t, v1alpha1.VolumePending, d.object("data-db-0").Phase, "the owner's is missing")
	require.Empty(t, b.report())

	owner := d.process("a", "db-0", "data")
	joined := make(chan error, 1)
	go func() { _, err := owner.joinOwn(t.Context(), "data-db-0", d.key()); joined <- err }()
	d.await("an open replica of the owner", func() bool { return len(joined) == 1 }, owner, b, c)
	require.NoError(t, <-joined)
	d.await("addresses", func() bool {
		for _, m := range d.object("data-db-0").Members {
			if m.Address == "" {
				return false
			}
		}
		return true
	}, owner, b, c)
	o := d.object("data-db-0")
	require.Equal(t, v1alpha1.VolumeBootstrapping, o.Phase)
	require.Equal(t, d.key(), o.KeyID)
	require.Equal(t, map[string]string{"a": "voter", "b": "voter", "c": "voter"}, roles(o))
	for _, m := range o.Members {
		require.Equal(t, m.Node+":"+m.Pod, m.Address)
	}
	require.NoError(t, b.settled())
}

func TestAReplicaIsMadeOnce(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	first := d.object("data-db-0").Members
	for _, h := range []*host{owner, b, c} {
		d.end(h)
	}
	// Other processes on the same disks: a keeper where the pod was, a pod of another volume where a keeper was.
	d.volume("data-db-1", "b", "b", "c", "a")
	keeper, db1 := d.process("a", "keeper-a"), d.process("b", "db-1", "data")
	d.await("the take-over", func() bool {
		o := d.object("data-db-0")
		return o.Members[0].Node != "" && podOn(o, "a") == "keeper-a" && podOn(o, "b") == "db-1"
	}, keeper, db1)
	o := d.object("data-db-0")
	require.Len(t, o.Members, 3)
	for i := range first {
		require.Equal(t, first[i].Replica, o.Members[i].Replica)
	}
}

// racing is an authority at which somebody else is faster, once.
type racing struct {
	authority.Files
	first func()
}

func (r *racing) Update(ctx context.Context, v v1alpha1.Volume) (v1alpha1.Volume, error) {
	if first := r.first; first != nil {
		r.first = nil
		first()
	}
	return r.Files.Update(ctx, v)
}

// TestAReplicaThatIsNotWantedGoesAgain: two join for one place, and one of them loses. No directory stays that nobody knows.
func TestAReplicaThatIsNotWantedGoesAgain(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	d.ready()
	replicas := func(node string) (names []string) {
		list, err := filepath.Glob(filepath.Join(d.dir, node, "*", "replicas", "*"))
		require.NoError(t, err)
		return list
	}
	require.Len(t, replicas("b"), 1)
	_, err := b.join(t.Context(), "data-db-0", nil)
	require.NoError(t, err)
	require.Len(t, replicas("b"), 1, "who has one makes none")

	d.lose("data-db-0", "c", "d")
	e := d.process("d", "keeper-d")
	made := 0
	e.auth = &racing{d.auth, func() {
		made = len(replicas("d"))
		d.change("data-db-0", func(o *v1alpha1.Volume) { o.Nodes = []string{"a", "b", "e"} }) // it shall be elsewhere
	}}
	_, err = e.join(t.Context(), "data-db-0", nil)
	require.NoError(t, err)
	require.Equal(t, 1, made, "it was there when the object was to hear of it")
	require.Empty(t, replicas("d"))
	d.change("data-db-0", func(o *v1alpha1.Volume) { o.Nodes = []string{"a", "b", "d"} })
	o, err := e.join(t.Context(), "data-db-0", nil)
	require.NoError(t, err)
	require.Len(t, replicas("d"), 1)
	require.Equal(t, v1alpha1.RoleLearner, roles(o)["d"])
	for _, h := range []*host{owner, b, c, e} {
		d.end(h)
	}
}

func podOn(o v1alpha1.Volume, node string) string {
	for _, m := range o.Members {
		if m.Node == node {
			return m.Pod
		}
	}
	return ""
}

// joined runs joinOwn while all hosts poll.
func (d *tenant) joined(h *host, volume string, others ...*host) error {
	d.t.Helper()
	done := make(chan error, 1)
	go func() { _, err := h.joinOwn(d.t.Context(), volume, d.key()); done <- err }()
	d.await("end of joining", func() bool { return len(done) == 1 }, append(others, h)...)
	return <-done
}

// lose marks what fail-node marks: the node's members are lost, and another node is wanted in its place.
func (d *tenant) lose(volume, node, by string) {
	d.change(volume, func(o *v1alpha1.Volume) {
		for i := range o.Nodes {
			if o.Nodes[i] == node {
				o.Nodes[i] = by
			}
		}
		m := &o.Members[memberOn(*o, node)]
		m.Role, m.Lost = v1alpha1.RoleLeaving, true
	})
}

func ids(o v1alpha1.Volume, nodes ...string) (list []uint64) {
	for _, n := range nodes {
		id, _ := diskdir.ParseID(o.Members[memberOn(o, n)].Replica)
		list = append(list, uint64(id))
	}
	return list
}

// TestALostNodeIsReplaced walks through fail-node: the pod moves to an empty node.
func TestALostNodeIsReplaced(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	d.change("data-db-0", func(o *v1alpha1.Volume) { o.Phase = v1alpha1.VolumeReady })
	d.end(owner)
	d.lose("data-db-0", "a", "d")
	moved := d.process("d", "db-0", "data")
	require.NoError(t, d.joined(moved, "data-db-0", b, c), "the owner serves as a learner")
	o := d.object("data-db-0")
	require.Equal(t, map[string]string{"a": "leaving", "b": "voter", "c": "voter", "d": "learner"}, roles(o))
	require.False(t, o.Members[memberOn(o, "d")].Filled)

	r := moved.hostedNow("data-db-0").open().(*pretended)
	r.mu.Lock()
	r.filled = true
	r.mu.Unlock()
	d.await("word that it is filled", func() bool { o = d.object("data-db-0"); return o.Members[memberOn(o, "d")].Filled }, moved)

	// The leader tells of its log: first that the learner is in, then the exchange. What is older changes nothing.
	require.NoError(t, b.changed(t.Context(), "data-db-0", 10, ids(o, "a", "b", "c"), ids(o, "d")))
	require.Equal(t, map[string]string{"a": "leaving", "b": "voter", "c": "voter", "d": "learner"}, roles(d.object("data-db-0")))
	require.NoError(t, b.changed(t.Context(), "data-db-0", 20, ids(o, "b", "c", "d"), nil))
	want := map[string]string{"b": "voter", "c": "voter", "d": "voter"}
	require.Equal(t, want, roles(d.object("data-db-0")))
	require.NoError(t, c.changed(t.Context(), "data-db-0", 15, ids(o, "a", "b", "c"), ids(o, "d")))
	require.Equal(t, want, roles(d.object("data-db-0")))
}

func TestAReplicaThatIsNoMemberIsClosed(t *testing.T) {
	d := newTenant(t)
	_, _, c := d.three()
	d.await("a replica on c", func() bool { return len(c.report()) == 1 }, c)
	id := c.report()[0].ID
	d.change("data-db-0", func(o *v1alpha1.Volume) {
		o.Nodes, o.Members = o.Nodes[:2], o.Members[:memberOn(*o, "c")]
	})
	d.change("data-db-0", func(o *v1alpha1.Volume) {
		for i := range o.Members {
			require.NotEqual(t, "c", o.Members[i].Node)
		}
	})
	d.await("no replica on c", func() bool { return len(c.report()) == 0 }, c)
	require.DirExists(t, filepath.Join(d.dir, "c", "disk-0", "replicas", id), "nothing is deleted by a guess")
}

// TestTwoPodsOnANode: each has a disk directory of its own.
func TestTwoPodsOnANode(t *testing.T) {
	d := newTenant(t)
	d.three()
	d.volume("data-web-0", "a", "a", "b", "c")
	second := d.process("a", "web-0", "data")
	o := d.object("data-web-0")
	require.Equal(t, v1alpha1.VolumePending, o.Phase)
	b, c := d.process("x", "none"), d.process("y", "none")
	done := make(chan error, 1)
	go func() { _, err := second.joinOwn(t.Context(), "data-web-0", d.key()); done <- err }()
	d.await("its member", func() bool { return len(d.object("data-web-0").Members) == 1 }, second, b, c)
	require.Equal(t, "disk-1", d.object("data-web-0").Members[0].Disk)
	d.change("data-web-0", func(o *v1alpha1.Volume) { // enough: nobody else is there to join
		o.Members[0].Lost, o.Members[0].Role = true, v1alpha1.RoleVoter
	})
	d.await("end of joining", func() bool { return len(done) == 1 }, second)
	var lost *MajorityLostError
	require.ErrorAs(t, <-done, &lost)
}

func TestTwoOfThreeDisksLost(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	d.end(owner)
	d.lose("data-db-0", "a", "d")
	d.lose("data-db-0", "b", "e")
	moved, e := d.process("d", "db-0", "data"), d.process("e", "keeper-e")
	err := d.joined(moved, "data-db-0", b, c, e)
	require.ErrorContains(t, err, "2 of 3 disks are lost")
	require.ErrorContains(t, err, "--accept-data-loss")
	e.poll(e.ctx)
	o := d.object("data-db-0")
	require.Len(t, o.Members, 3, "no new replica is made while nobody can decide")

	// Somebody accepts the loss: c goes on alone, and hears of nobody else until its log says so.
	survivor := o.Members[memberOn(o, "c")]
	d.change("data-db-0", func(o *v1alpha1.Volume) {
		o.Survivor, o.Members = survivor.Replica, []v1alpha1.Member{survivor}
		o.Members[0].Role = v1alpha1.RoleVoter
	})
	e.poll(e.ctx)
	c.poll(c.ctx)
	require.Len(t, d.object("data-db-0").Members, 1)
	require.Len(t, c.members("data-db-0"), 1)
	require.NoError(t, c.changed(t.Context(), "data-db-0", 100, ids(o, "c"), nil))
	c.poll(c.ctx)
	require.Equal(t, survivor.Replica, d.object("data-db-0").Survivor, "its checkpoint does not know it yet")
	for _, r := range c.list() {
		if g, ok := r.open().(*pretended); ok {
			g.mu.Lock()
			g.alone = true
			g.mu.Unlock()
		}
	}
	c.poll(c.ctx)
	require.Empty(t, d.object("data-db-0").Survivor)
	require.NoError(t, d.joined(moved, "data-db-0", c, e))
	d.await("a learner on e", func() bool { return memberOn(d.object("data-db-0"), "e") >= 0 }, e)
	require.Equal(t, map[string]string{"c": "voter", "d": "learner", "e": "learner"}, roles(d.object("data-db-0")))
}

func TestWhoMaySpeak(t *testing.T) {
	d := newTenant(t)
	_, b, c := d.three()
	d.await("the keepers' names", func() bool {
		return podOn(d.object("data-db-0"), "b") == "keeper-b" && podOn(d.object("data-db-0"), "c") == "keeper-c"
	}, b, c)
	o := d.object("data-db-0")
	group, err := diskdir.ParseID(o.Group)
	require.NoError(t, err)
	from, to := ids(o, "b")[0], ids(o, "c")[0]
	good := peer{"default", "keeper-b", []string{"data-db-0"}}
	require.NoError(t, c.authorize(good, uint64(group), from, to))
	for want, p := range map[string]peer{
		"has no business":                {"other", "keeper-b", good.volumes},
		"is served by \"keeper-b\"":      {"default", "keeper-x", good.volumes},
		"does not name volume data-db-0": {"default", "keeper-b", []string{"data-db-1"}},
	} {
		require.ErrorContains(t, c.authorize(p, uint64(group), from, to), want)
	}
	require.ErrorContains(t, c.authorize(good, uint64(group), 1, to), "is not a member")
	require.ErrorContains(t, c.authorize(good, uint64(group), from, 1), "is not a member")
	require.ErrorContains(t, c.authorize(good, 1, from, to), "is of no volume")

	// The object has changed, and c has not looked yet: it looks before it refuses.
	d.change("data-db-0", func(o *v1alpha1.Volume) { o.Members[memberOn(*o, "b")].Pod = "keeper-x" })
	require.NoError(t, c.authorize(peer{"default", "keeper-x", good.volumes}, uint64(group), from, to))
	require.ErrorContains(t, c.authorize(good, uint64(group), from, to), "is served by \"keeper-x\"")
	d.change("data-db-0", func(o *v1alpha1.Volume) { o.Members[memberOn(*o, "b")].Lost = true })
	require.NoError(t, c.refresh(t.Context()))
	require.ErrorContains(t, c.authorize(peer{"default", "keeper-x", good.volumes}, uint64(group), from, to), "given up as lost")
}

// TestACopyOfAnotherVolumesReplica: a replica directory is what its superblock says, whatever it is called.
func TestACopyOfAnotherVolumesReplica(t *testing.T) {
	d := newTenant(t)
	_, b, _ := d.three()
	d.end(b)
	o := d.object("data-db-0")
	id := o.Members[memberOn(o, "b")].Replica
	replicas := filepath.Join(d.dir, "b", "disk-0", "replicas")
	d.volume("data-db-1", "x", "b", "x", "y")
	other := d.process("b", "keeper-b")
	d.await("a replica of the other volume", func() bool { return len(d.object("data-db-1").Members) == 1 }, other)
	d.end(other)
	require.NoError(t, os.RemoveAll(filepath.Join(replicas, id)))
	require.NoError(t, os.CopyFS(filepath.Join(replicas, id), os.DirFS(filepath.Join(replicas, d.object("data-db-1").Members[0].Replica))))
	other = d.process("b", "keeper-b")
	d.await("a refusal", func() bool { r := other.report(); return len(r) == 1 && r[0].Error != "" }, other)
	require.Contains(t, other.report()[0].Error, "a replica cannot be copied")
	require.Equal(t, "Damaged", other.report()[0].State)
}

func memberOn(o v1alpha1.Volume, node string) int {
	for i, m := range o.Members {
		if m.Node == node {
			return i
		}
	}
	return -1
}

// TestASurvivorIsServedThoughItsVolumeIsNot: whoever accepts the loss must be able to ask what it has.
func TestASurvivorIsServedThoughItsVolumeIsNot(t *testing.T) {
	d := newTenant(t)
	owner, _, _ := d.three()
	d.end(owner)
	d.lose("data-db-0", "b", "d")
	d.lose("data-db-0", "c", "e")
	again := d.process("a", "db-0", "data")
	var lost *MajorityLostError
	require.ErrorAs(t, d.joined(again, "data-db-0"), &lost)
	d.await("the survivor", func() bool { r := again.report(); return len(r) == 1 && r[0].Error == "" }, again)
}
