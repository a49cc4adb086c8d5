package replication

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// simNode is a node of a simulated group: a disk, and perhaps a process.
type simNode struct {
	s         *sim
	id        uint64
	fs        *faultfs.FS
	founder   bool
	witness   bool
	gone      bool     // for good, with its disk
	filled    bool     // the object has said so of its replica, once
	rotten    bool     // a bit of its content has turned over, and is not healed
	life      *simLife // nil: no process; s.mu is held where it changes
	lives     int
	away      bool     // for a while, with its disk
	forgotten bool     // the others hear nothing of it any more
	part      *simPart // of the group
	beside    *simPart // of the group of one that shares its disk; nil: there is none
	clock     float64  // its speed
	slow      atomic.Int64
	frozen    atomic.Int64 // until then
	damaged   atomic.Bool  // its metadata is, and the state of a peer has not come yet
}

// simPart is a node's part in a group, over all of its processes.
type simPart struct {
	oracle    *simOracle   // of the group
	replica   diskdir.ID   // here
	committed record.Index // the newest that any of its processes knew to be
	owner     *simOwner    // the newest one, where the group is of one and shares the disk
	epoch     uint64       // of that
}

// simLife is a replica in a process: while that lives.
type simLife struct {
	*simProcess
	part   *simPart
	group  *Group
	keys   *seal.Keys
	beside *simLife // in the same process, of the other group; nil: not served

	opened             atomic.Bool
	filling            atomic.Bool
	scrubbing, healed  atomic.Bool
	applyDue, catchDue atomic.Bool
	owned              bool // it has or had the owner
	alone              bool // a group of one
	shut               bool // closed, while the process goes on
}

// simProcess is one process on a node.
type simProcess struct {
	n    *simNode
	s    *sim
	disk *Disk
	done chan struct{} // closed when it dies
	wg   sync.WaitGroup
	dead atomic.Bool

	ended, closing       atomic.Bool
	committing, applying atomic.Bool
	commitDue            bool
	err                  error        // of the opening or the end
	syncing              atomic.Int32 // slow ones

	mu       sync.Mutex // of the hooks
	rng      *mrand.Rand
	ops      int
	crashAt  int // which call of the disk is the last; 0: none
	crashCut faultfs.Cut
	after    bool // when that call is done
	failIn   int  // the how many-th sync fails
	injected bool
	image    *faultfs.FS // what the crash left
}

var errSimDeath = errors.New("the process is dead")

const simSegment = 128 << 10

// setup makes the nodes with their replicas.
func (s *sim) setup() {
	for id := uint64(1); id <= uint64(s.plan.nodes); id++ {
		n := s.addNode(id)
		n.founder, n.witness = true, s.plan.witness && id == uint64(s.plan.nodes)
		s.object.members = append(s.object.members, Member{ID: id, Role: Voter, Witness: n.witness})
	}
	s.object.copies, s.object.several = s.plan.nodes, s.plan.nodes > 1
	for _, n := range s.nodes {
		s.startNode(n)
		s.ticks(n)
		s.fillSoon(n)
	}
	s.after(s.plan.duration, s.heal)
	s.after(50*time.Millisecond, s.owners)
	s.after(s.plan.faultEvery, s.faultSoon)
	s.after(time.Second, s.verifySoon)
	if s.plan.exchange {
		s.after(time.Second, s.membersSoon)
	}
	if s.plan.disks > 0 {
		s.disks()
	}
}

func (s *sim) addNode(id uint64) *simNode {
	n := &simNode{s: s, id: id, clock: 0.8 + 0.4*s.rng.Float64(), fs: faultfs.New(mrand.New(mrand.NewPCG(s.seed, id<<8)))}
	random := &simReader{r: mrand.New(mrand.NewPCG(s.seed, id<<8|1))}
	dir, err := diskdir.Open(n.fs, "disk-0", "tenant", simSegment, random)
	require.NoError(s.t, err)
	r, err := dir.CreateReplica(diskdir.ReplicaInfo{Replica: diskdir.ID(id), Group: 9, VolumeUID: "uid", Volume: "v"})
	require.NoError(s.t, err)
	require.NoError(s.t, r.Close())
	n.part = &simPart{oracle: s.oracle, replica: diskdir.ID(id)}
	if s.plan.beside {
		s.putBeside(n, dir)
	}
	require.NoError(s.t, dir.Close())
	s.mu.Lock()
	s.nodes = append(s.nodes, n)
	s.mu.Unlock()
	return n
}

// startNode starts a process on a node.
func (s *sim) startNode(n *simNode) {
	if n.life != nil || s.ended || n.gone || n.away {
		return
	}
	n.lives++
	p := &simProcess{n: n, s: s, done: make(chan struct{}), rng: mrand.New(mrand.NewPCG(s.seed, n.id<<32|uint64(n.lives)))}
	l := &simLife{simProcess: p, part: n.part}
	s.mu.Lock()
	n.life = l
	s.mu.Unlock()
	if !s.healing && l.rng.IntN(4) == 0 && s.plan.has("crash at a call") { // in its recovery
		l.crashAt, l.crashCut, l.after = 1+l.rng.IntN(60), simCut(l.rng), l.rng.IntN(2) == 0
	}
	n.fs.Watch(&faultfs.Hooks{Before: l.before, After: l.afterCall})
	s.note("node %d: life %d begins", n.id, n.lives)
	l.run(func() {
		if l.err = l.open(); l.err != nil {
			l.ended.Store(true)
			return
		}
		l.opened.Store(true)
	})
	synctest.Wait() // one after the other: on a loaded machine the scheduler may change the order
}

// freeze stops a node's processes for a while.
func (n *simNode) freeze(d time.Duration) { n.frozen.Store(time.Now().Add(d).UnixNano()) }

// thaws tells in how long it is over.
func (n *simNode) thaws() time.Duration { return time.Until(time.Unix(0, n.frozen.Load())) }

// run has something done in a goroutine of the process.
func (l *simProcess) run(f func()) {
	l.wg.Go(func() {
		defer l.caught()
		f()
	})
}

// caught turns a panic into a violation, unless the process is dead already.
func (l *simProcess) caught() {
	r := recover()
	if r == nil {
		return
	}
	if l.dead.Load() {
		l.s.worked("panics of the dead", 1)
		return
	}
	l.s.violate("node %d: panic: %v", l.n.id, r)
	fmt.Printf("%s\nviolations: 1\n", debug.Stack())
	os.Exit(1) // locks may be held for ever
}

func (l *simLife) open() error {
	n, s := l.n, l.s
	random := &simReader{r: mrand.New(mrand.NewPCG(s.seed, n.id<<32|uint64(n.lives)<<1|1))}
	log := slog.New(slog.DiscardHandler)
	if s.tell != nil {
		log = slog.New(slog.NewTextHandler(simLog{s, n.id}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	dir, err := diskdir.Open(n.fs, "disk-0", "tenant", simSegment, random)
	if err != nil {
		return err
	}
	d, err := OpenDisk(Config{FS: n.fs, Rand: random, Logger: log, CheckpointBytes: s.plan.checkpointBytes, MemTableBytes: 256 << 10, PlaceBytes: s.plan.placeBytes,
		Manual: true}, dir)
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	l.disk = d
	if n.beside != nil && l.servesBeside() {
		l.beside = &simLife{simProcess: l.simProcess, part: n.beside, alone: true}
		if err := l.beside.openGroup(nil, log); err != nil {
			return err
		}
		l.beside.opened.Store(true)
	}
	return l.openGroup(l.peers(), log)
}

// peers is how the replica takes part in its group; nil: it is alone.
func (l *simLife) peers() *PeersConfig {
	n, s := l.n, l.s
	s.mu.Lock()
	several, force := s.object.several, s.object.survivor == n.id
	s.mu.Unlock()
	if !several {
		l.alone = true
		return nil
	}
	peers := &PeersConfig{Tick: -1, After: l.later, Send: l.send, Fetch: l.fetch, LogBytes: s.plan.logBytes, Force: force, Witness: n.witness, KeepBytes: s.plan.keepBytes}
	if s.plan.exchange || s.plan.witness {
		peers.Members, peers.Copies, peers.Changed = s.members, s.copies, l.changed
	}
	if n.founder && !s.ready {
		for id := uint64(1); id <= uint64(s.plan.nodes); id++ {
			peers.Founders = append(peers.Founders, id)
		}
	}
	return peers
}

// openGroup opens the replica's part of its group.
func (l *simLife) openGroup(peers *PeersConfig, log *slog.Logger) (err error) {
	s := l.s
	if s.plan.key != nil && (!l.n.witness || l.part == l.n.beside) {
		if l.keys, err = seal.New(s.plan.key, "tenant"); err != nil {
			return err
		}
		l.keys.Audit = func(i record.Incarnation, nonce [12]byte) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !l.dead.Load() {
				l.part.oracle.nonce(i, nonce)
			}
		}
	}
	r, err := l.disk.dir.OpenReplica(l.part.replica)
	if err != nil {
		return err
	}
	g, err := l.disk.OpenGroup(GroupConfig{Replica: r, Keys: l.keys, Logger: log, Peers: peers, Committed: l.committed})
	if err != nil {
		return errors.Join(err, r.Close())
	}
	l.group = g
	if peers != nil {
		l.part.oracle.ascends(l)
	}
	if peers != nil && peers.Force {
		s.mu.Lock()
		l.part.oracle.forced(l)
		s.mu.Unlock()
	}
	return nil
}

type simLog struct {
	s  *sim
	id uint64
}

func (w simLog) Write(b []byte) (int, error) {
	fmt.Fprintf(w.s.tell, "%12v      log of %d: %s", time.Since(w.s.begin), w.id, b)
	return len(b), nil
}

// committed tells the oracle.
func (l *simLife) committed(index record.Index, term uint64, r *record.Record) {
	if l.dead.Load() {
		return
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.part.committed = max(l.part.committed, index)
	l.part.oracle.commit(index, term, r, l.n.id)
}

// before is called before each call of the disk.
func (l *simProcess) before(op *faultfs.Op) error {
	meta := strings.Contains(op.Path+"/", "/meta/")
	if op.Kind == faultfs.Remove && meta {
		if l.n.damaged.Load() { // all of it goes
			return nil
		}
		return faultfs.ErrPretend // Pebble removes in the background: when would depend on the scheduler
	}
	if op.Kind == faultfs.Read || op.Kind == faultfs.Open || l.dead.Load() {
		return nil
	}
	l.mu.Lock()
	l.ops++
	if l.crashAt == l.ops && !l.after {
		l.crash(op)
	}
	fails := false
	if sync := op.Kind == faultfs.Sync || op.Kind == faultfs.SyncDir; sync && !meta && l.failIn > 0 {
		l.failIn--
		fails = l.failIn == 0
	}
	slow, first := time.Duration(0), false
	if op.Kind == faultfs.Sync && strings.HasSuffix(op.Path, ".seg") && !l.applying.Load() && !fails {
		if !l.n.hollow() {
			slow = l.s.plan.syncTime/2 + time.Duration(l.rng.Int64N(int64(l.s.plan.syncTime)))
			if l.n.slow.Load() > 0 {
				slow += time.Duration(l.rng.Int64N(l.n.slow.Load()))
			}
		}
		first = l.rng.IntN(2) == 0
	}
	if fails {
		l.injected = true
	}
	l.mu.Unlock()
	if fails {
		l.s.mu.Lock()
		l.s.faults["fsync error"]++
		l.s.mu.Unlock()
		return &os.PathError{Op: "sync", Path: op.Path, Err: syscall.EIO}
	}
	if slow > 0 && first {
		l.sleep(slow)
	} else if slow > 0 {
		op.Part = -int(slow) // afterwards
	}
	return nil
}

// hollow tells that the state of its replica is being replaced.
func (n *simNode) hollow() bool {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return n.life != nil && n.life.group != nil && n.life.group.hollow.Load()
}

func (l *simProcess) sleep(d time.Duration) {
	l.syncing.Add(1)
	defer l.syncing.Add(-1)
	time.Sleep(d)
	for wait := l.n.thaws(); wait > 0 && !l.dead.Load(); wait = l.n.thaws() {
		time.Sleep(wait)
	}
}

// afterCall is called when a call of the disk is done.
func (l *simProcess) afterCall(op *faultfs.Op) {
	if l.dead.Load() {
		return
	}
	l.mu.Lock()
	if l.crashAt == l.ops && l.after && op.Kind != faultfs.Read && op.Kind != faultfs.Open {
		l.crash(op)
	}
	l.mu.Unlock()
	if op.Kind == faultfs.Sync && op.Part < 0 {
		l.sleep(time.Duration(-op.Part))
	}
}

// crash takes what is left at this call. What the process does afterwards nobody sees. l.mu is held.
func (l *simProcess) crash(op *faultfs.Op) {
	l.image = l.n.fs.Image(l.rng, l.crashCut, op)
	l.dead.Store(true)
	l.s.mu.Lock()
	l.s.faults["crash at a call: "+l.crashCut.String()]++
	l.s.mu.Unlock()
}

func simCut(rng *mrand.Rand) faultfs.Cut { return faultfs.Cut(rng.IntN(int(faultfs.Cuts))) }

// look sees what has happened to all nodes, and arranges what follows.
func (s *sim) look() {
	for _, n := range s.nodes {
		l := n.life
		if l == nil {
			continue
		}
		if n.damaged.Load() && l.opened.Load() && !l.dead.Load() && l.group.replacedBy() { // the dead go on in memory
			n.damaged.Store(false)
			s.worked("damaged metadata replaced", 1)
		}
		if l.healed.Swap(false) {
			n.rotten = false
			s.note("node %d: scrubbed", n.id)
		}
		switch {
		case l.dead.Load():
			s.note("node %d: crashed at call %d of its life, %v", n.id, l.ops, l.crashCut)
			n.fs = l.image
			s.bury(l)
			s.restart(n)
		case l.ended.Load() && l.closing.Load(): // as it was asked to
			s.note("node %d: stopped: %v", n.id, l.err)
			s.crashNow(l, faultfs.Killed)
			s.restart(n)
		case l.ended.Load() && (l.hasFailed() || s.plan.disks > 1 && isFull(l.err)):
			s.note("node %d: did not start: %v", n.id, l.err)
			s.crashNow(l, simCut(s.rng))
			s.restart(n)
		case l.ended.Load() && n.damaged.Load() && errors.Is(l.err, store.ErrDamaged): // who else has the content is to leave: it waits
			s.note("node %d: did not start: %v", n.id, l.err)
			s.crashNow(l, faultfs.Killed)
			s.restart(n)
		case l.ended.Load():
			s.violate("node %d does not start: %v", n.id, l.err)
		case l.opened.Load() && !l.closing.Load():
			if s.lookAt(l); l.beside != nil && n.life == l && l.beside.opened.Load() {
				s.lookAt(l.beside)
			}
		}
	}
	s.mu.Lock()
	acks := s.acks
	s.acks = nil
	slices.SortFunc(acks, func(a, b simAck) int { // who of several waits is woken first depends on the scheduler
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.part.replica, b.part.replica), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.seq, b.seq))
	})
	for _, a := range acks {
		a.part.oracle.ack(a)
		s.work["fsyncs acknowledged"]++
	}
	s.mu.Unlock()
	for _, a := range acks {
		s.note("node %d acknowledges %d/%d", a.node, a.epoch, a.seq)
	}
}

func (s *sim) lookAt(l *simLife) {
	g := l.group
	g.mu.Lock()
	failed, queue, pressed := g.failed, len(g.queue), 0
	if g.pressed {
		pressed = 1
	}
	term, leads, install := uint64(0), false, 0
	if g.peers != nil {
		_, term = g.peers.core.Leader()
		leads, install = g.peers.core.Leads(), len(g.peers.install)
	}
	g.mu.Unlock()
	if leads {
		s.mu.Lock()
		s.oracle.led(term, l.n.id)
		s.mu.Unlock()
	}
	if errors.Is(failed, errOpen) {
		s.worked("owners that fell behind", 1)
		s.crashNow(l, faultfs.Killed)
		s.restart(l.n)
		return
	}
	if errors.Is(failed, ErrReplace) && l.n.damaged.Load() {
		s.note("node %d: stops, for its metadata is damaged: %v", l.n.id, failed)
		s.crashNow(l, faultfs.Killed)
		s.restart(l.n)
		return
	}
	if failed != nil {
		if !l.hasFailed() && !(s.plan.disks > 1 && isFull(failed)) {
			s.violate("node %d stopped: %v", l.n.id, failed)
			return
		}
		s.note("node %d: stops after a failed fsync: %v", l.n.id, failed)
		s.crashNow(l, simCut(s.rng))
		s.restart(l.n)
		return
	}
	if l.disk.armed.Swap(false) {
		l.commitDue = true
	}
	if l.commitDue && !l.committing.Load() {
		l.commitDue = false
		l.committing.Store(true)
		s.after(s.between(0, s.plan.lag), func() { l.commit() })
	}
	if hollow := g.hollow.Load(); (hollow || install > 0) && !l.catchDue.Load() {
		l.catchDue.Store(true)
		s.after(s.between(0, catchUpPause), l.catchUp)
	}
	if queue += pressed; queue > 0 && !l.applyDue.Load() && !g.hollow.Load() {
		l.applyDue.Store(true)
		s.after(s.between(0, s.plan.applyLag), func() { l.apply() })
	}
}

func (l *simLife) commit() {
	if l.dead.Load() {
		return
	}
	l.s.note("node %d commits", l.n.id)
	l.run(func() {
		l.disk.commit()
		l.committing.Store(false)
	})
}

func (l *simLife) apply() {
	if l.dead.Load() || l.closing.Load() {
		return
	}
	if l.syncing.Load() > 0 || l.applying.Load() || l.n.thaws() > 0 {
		l.s.after(time.Millisecond, l.apply)
		return
	}
	if l.group.hollow.Load() { // it would wait for what waits for it
		l.applyDue.Store(false)
		return
	}
	l.s.note("node %d applies", l.n.id)
	l.applying.Store(true)
	l.run(func() {
		if g := l.group; g.applyNext() {
			g.mu.Lock()
			surplus := g.surplus()
			g.mu.Unlock()
			if surplus {
				g.giveBack()
			}
		}
		l.applying.Store(false)
		l.applyDue.Store(false)
	})
}

// hasFailed tells whether a sync of it was made to fail.
func (l *simProcess) hasFailed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.injected
}

// catchUp is one attempt of Group.catcher.
func (l *simLife) catchUp() {
	if l.dead.Load() || l.closing.Load() {
		return
	}
	if l.syncing.Load() > 0 || l.applying.Load() || l.n.thaws() > 0 {
		l.s.after(time.Millisecond, l.catchUp)
		return
	}
	var asked *pb.Message
	select {
	case asked = <-l.group.peers.install:
	default:
	}
	l.s.note("node %d is to be caught up", l.n.id)
	l.applying.Store(true)
	l.run(func() {
		if err := l.group.catchUp(l.group.peers.ctx); err == nil {
			l.s.worked("copies of the state", 1)
		} else {
			l.s.worked("copies that failed", 1)
			l.s.aside("node %d is not caught up: %v", l.n.id, err)
			time.Sleep(catchUpPause)
			select {
			case l.group.peers.install <- asked: // again
			default:
			}
		}
		l.applying.Store(false)
		l.catchDue.Store(false)
	})
}

// fillSoon fills what is absent, again and again.
func (s *sim) fillSoon(n *simNode) {
	s.after(s.between(fillPause, 2*fillPause), func() { s.fillSoon(n) })
	l := n.life
	if l == nil || !l.opened.Load() || l.closing.Load() || l.filling.Load() || n.thaws() > 0 {
		return
	}
	if st := l.group.Store(); st == nil || st.Complete() {
		return
	}
	l.filling.Store(true)
	l.run(func() {
		if err := l.group.fillOnce(l.group.peers.ctx); err != nil {
			l.s.worked("fillings that failed", 1)
			s.aside("node %d is not filled: %v", n.id, err)
		} else {
			l.s.worked("fillings", 1)
		}
		l.filling.Store(false)
	})
}

// fetch asks a peer on the second connection.
func (l *simLife) fetch(ctx context.Context, from uint64, request []byte) (io.ReadCloser, error) {
	s := l.s
	answer, err := s.ask(l.n.id, from, request)
	switch {
	case l.dead.Load():
		return nil, errSimDeath
	case err != nil:
		return nil, err
	}
	return io.NopCloser(answer), nil
}

// ask has a peer answer a request. The answer may break off.
func (s *sim) ask(by, of uint64, request []byte) (io.Reader, error) {
	s.mu.Lock()
	there, back := s.link(by, of), s.link(of, by)
	there.asked++
	rng := mrand.New(mrand.NewPCG(mix(s.seed, by, of, 7), there.asked))
	s.mu.Unlock()
	time.Sleep(s.plan.latency/2 + time.Duration(rng.Int64N(int64(s.plan.latency))))
	n := s.node(of)
	var life *simLife
	s.mu.Lock()
	if n != nil {
		life = n.life
	}
	cut := there.cut || back.cut
	s.mu.Unlock()
	if cut || life == nil || life.alone || !life.opened.Load() || life.closing.Load() || n.thaws() > 0 {
		return nil, errors.New("no connection")
	}
	var answer bytes.Buffer
	if err := life.group.Bulk(life.group.peers.ctx, request, &answer); err != nil {
		return nil, err
	}
	time.Sleep(s.plan.latency/2 + time.Duration(rng.Int64N(int64(s.plan.latency))))
	s.mu.Lock()
	defer s.mu.Unlock()
	if life.dead.Load() || back.cut || !s.healing && rng.Float64() < s.plan.loss {
		s.faults["bulk answer broken off"]++
		return io.MultiReader(bytes.NewReader(answer.Bytes()[:rng.IntN(answer.Len()+1)]), iotest.ErrReader(io.ErrUnexpectedEOF)), nil
	}
	return &answer, nil
}

// crashNow ends a process, and leaves its disk as the cut says.
func (s *sim) crashNow(l *simLife, cut faultfs.Cut) {
	n := l.n
	img := n.fs.Image(l.rng, cut, nil)
	s.kill(l)
	n.fs = img
}

// kill ends a process.
func (s *sim) kill(l *simLife) {
	l.dead.Store(true)
	s.bury(l.n.life)
}

// bury lets what is left of a process end: nobody hears of it any more.
func (s *sim) bury(l *simLife) {
	s.mu.Lock()
	l.n.life = nil
	s.mu.Unlock()
	l.n.freeze(0)
	close(l.done)
	s.wg.Go(func() {
		if l.opened.Load() {
			l.fail()
			l.beside.fail()
		}
		l.wg.Wait() // the opening, too
		if !l.closing.Load() {
			l.letGo()
			l.beside.letGo()
		}
		if l.disk != nil && !l.closing.Load() {
			_ = l.disk.Close()
		}
	})
}

// fail has everybody return who waits for the group of a dead process.
func (l *simLife) fail() {
	if l == nil || l.group == nil {
		return
	}
	l.group.fail(errSimDeath)
	if l.group.peers != nil {
		l.group.peers.stop()
	}
}

// letGo closes what a dead process has open.
func (l *simLife) letGo() {
	l.fail()
	if l == nil || l.group == nil || l.shut {
		return
	}
	l.group.lag.Stop()
	if s := l.group.Store(); s != nil {
		s.Release()
	}
	_ = l.group.closeStore()
	_ = l.group.cfg.Replica.Close()
}

// restart starts a node again after a while.
func (s *sim) restart(n *simNode) {
	s.after(s.between(0, s.plan.restart), func() { s.startNode(n) })
}

// stop ends a process in good order.
func (s *sim) stop(l *simLife) {
	if l.dead.Load() || l.syncing.Load() > 0 || l.applying.Load() || l.committing.Load() || s.opens(l) {
		return
	}
	s.fault("orderly stop", "node %d", l.n.id)
	l.closing.Store(true)
	l.applying.Store(true) // its syncs are not slow: they hold locks
	l.run(func() {
		if l.beside != nil && l.beside.opened.Load() {
			l.beside.drain()
			l.err = l.beside.group.Close(context.Background())
		}
		l.drain()
		l.err = errors.Join(l.err, l.group.Close(context.Background()), l.disk.Close())
		l.ended.Store(true)
	})
}

// opens tells that an owner of a group of one in the process is about to read its store.
func (s *sim) opens(l *simLife) bool {
	for _, o := range []*simOwner{s.owner, l.n.ownerBeside()} {
		if o != nil && o.l.alone && (o.l == l || o.l == l.beside) && !o.opened.Load() && !o.ended.Load() {
			return true
		}
	}
	return false
}

// drain applies all that a group of one has, before it is closed.
func (l *simLife) drain() {
	if !l.alone {
		return
	}
	l.disk.commit()
	for left := 1; left > 0; {
		l.group.mu.Lock()
		left = len(l.group.queue)
		l.group.mu.Unlock()
		if left > 0 && !l.group.applyNext() {
			return
		}
	}
}

// ticks is the clock of a node.
func (s *sim) ticks(n *simNode) {
	s.after(time.Duration(float64(s.plan.tick)/n.clock*(0.9+0.2*s.rng.Float64())), func() {
		s.tick(n)
		s.ticks(n)
	})
}

func (s *sim) tick(n *simNode) {
	if l := n.life; l != nil && !l.alone && l.opened.Load() && !l.closing.Load() && n.thaws() <= 0 {
		l.group.tick()
	}
}

// after is a timer of a process.
func (l *simLife) later(d time.Duration, f func()) {
	l.s.after(time.Duration(float64(d)/l.n.clock), func() {
		if l.dead.Load() {
			return
		}
		if l.n.thaws() > 0 || !l.opened.Load() {
			l.later(time.Millisecond, f)
			return
		}
		f()
	})
}

// simLink is the way from one node to another.
type simLink struct {
	cut         bool
	sent, asked uint64
	last        time.Time
}

// link returns a link. s.mu is held.
func (s *sim) link(from, to uint64) *simLink {
	l := s.links[[2]uint64{from, to}]
	if l == nil {
		l = &simLink{}
		s.links[[2]uint64{from, to}] = l
	}
	return l
}

// send puts a message on its way.
func (l *simLife) send(to uint64, kind uint8, parts ...[]byte) {
	if l.dead.Load() {
		return
	}
	body := bytes.Join(parts, nil)
	s, from := l.s, l.n.id
	s.mu.Lock()
	defer s.mu.Unlock()
	link := s.link(from, to)
	link.sent++
	rng := mrand.New(mrand.NewPCG(mix(s.seed, from, to), link.sent))
	s.work["messages"]++
	if link.cut {
		s.faults["message cut off"]++
		return
	}
	copies := 1
	if !s.healing && rng.Float64() < s.plan.loss {
		s.faults["message lost"]++
		copies = 0
	} else if !s.healing && rng.Float64() < s.plan.repeat {
		s.faults["message repeated"]++
		copies = 2
	}
	for c := range copies {
		delay := s.plan.latency/2 + time.Duration(rng.Int64N(int64(s.plan.latency)))
		late := !s.healing && rng.Float64() < s.plan.late
		if late {
			s.faults["message delayed"]++
			delay *= time.Duration(2 + rng.IntN(100))
		}
		at := time.Now().Add(delay)
		if (!late && c == 0 || !s.plan.reorder) && at.Before(link.last) {
			at = link.last.Add(1)
		}
		if at.Before(link.last) {
			s.faults["message reordered"]++
		} else {
			link.last = at
		}
		s.push(&simEvent{at: at, key: mix(from, to, link.sent, uint64(c)), run: func() { s.deliver(from, to, kind, body) }})
	}
}

func (s *sim) deliver(from, to uint64, kind uint8, body []byte) {
	n := s.node(to)
	if n == nil || n.life == nil || n.life.alone || !n.life.opened.Load() || n.life.closing.Load() || s.node(from).forgotten {
		return
	}
	if n.thaws() > 0 {
		s.after(n.thaws(), func() { s.deliver(from, to, kind, body) })
		return
	}
	s.note("%d>%d kind %d, %d bytes, %08x", from, to, kind, len(body), crc32.ChecksumIEEE(body))
	s.asideFrame(n.life, kind, from, bytes.Clone(body))
	defer n.life.caught()
	if err := n.life.group.Receive(kind, from, bytes.Clone(body)); err != nil {
		s.worked("messages refused", 1)
		s.note("refused: %v", err)
	}
}

func (s *sim) node(id uint64) *simNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// verifySoon compares the stores of nodes with the oracle's, again and again.
func (s *sim) verifySoon() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if l := n.life; l != nil && l.opened.Load() && !l.closing.Load() && !l.applying.Load() && !l.group.hollow.Load() {
		s.verify(l)
		s.verifyBeside(l)
	}
	s.after(s.between(300*time.Millisecond, 2*time.Second), s.verifySoon)
}

func (s *sim) verify(l *simLife) bool {
	if l.part == l.n.part && (l.n.witness || l.n.rotten || l.n.damaged.Load()) { // it has none, or knows it, or will find it: scrubSoon
		return true
	}
	st, err := l.stateOf()
	s.mu.Lock()
	if err == nil {
		err = l.part.oracle.check(st)
	}
	s.work["stores compared"]++
	s.mu.Unlock()
	if err != nil {
		s.violate("node %d: %v", l.n.id, err)
	}
	return err == nil
}
