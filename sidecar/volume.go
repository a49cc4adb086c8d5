package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
	"github.com/remora-storage/remora/sidecar/session"
	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/status"
	"github.com/remora-storage/remora/telemetry"
	"github.com/remora-storage/remora/webhook/spec"
)

// volume is one volume of the pod on its way from an object to a mount:
//
//  1. claim: the Volume object exists, its member is on this node (made now if the volume is new), and the next epoch is ours.
//  2. log: the disk directory's journal is read, the replica's store is as new as its log.
//  3. own: what an earlier owner had answered is accepted, and then our Owner record; the file system is open. A new volume
//     becomes Ready.
//  4. mount: the FUSE connection is taken from its holder, and the first request is read.
type volume struct {
	s    *sidecar
	spec spec.Volume

	object  v1alpha1.Volume
	keys    *seal.Keys // nil: sealing is off
	group   volumeLog
	hosted  *hosted // nil for a volume of one copy, whose group is the volume's alone
	fs      *cachefs.FS
	client  *holder.Client
	session *session.Session
	trace   *telemetry.VolumeRecorder

	mu    sync.Mutex
	state string // one of status's
	ready bool   // group and fs are set and stay

	left bool // by close: requests are under way, and everything stays open
}

// volumeLog is the volume's group, as its owner uses it.
type volumeLog interface {
	cachefs.Log
	cachefs.Source
	// Free is about how many bytes more Room would take now.
	Free() int64
	// LostAnswers is how many records an earlier process here had answered that can never be accepted.
	LostAnswers() int
	// Recover proposes again what an earlier owner process had answered.
	Recover(ctx context.Context) (int, error)
	// BeginEpoch returns when the Owner record is applied.
	BeginEpoch(ctx context.Context, owner *record.Record) error
	Store() *store.Store
	Status() replication.Status
	Close(ctx context.Context) error
}

func newVolume(s *sidecar, v spec.Volume) *volume {
	return &volume{s: s, spec: v, state: status.Pending, object: v1alpha1.Volume{
		Namespace: s.cfg.Namespace, Name: s.cfg.volumeName(v), Class: v.Class, Size: v.Size}}
}

func (v *volume) setState(state string) {
	v.mu.Lock()
	v.state = state
	v.mu.Unlock()
}

func (v *volume) open(ctx context.Context) error {
	sampling, err := samplingOf(v.spec.Trace)
	if err != nil {
		return err
	}
	v.trace = v.s.trace.Volume(v.object.Name, sampling)
	v.setState(status.Recovering)
	if err := v.openLog(ctx); err != nil {
		v.setState(stateOf(err))
		return err
	}
	if err := giveToGroup(v.fs, v.s.cfg.FSGroup); err != nil {
		v.setState(status.Failed)
		return fmt.Errorf("fsGroup %d: %w", v.s.cfg.FSGroup, err)
	}
	if err := v.mount(ctx); err != nil {
		v.setState(status.Failed)
		return err
	}
	v.setState(status.Mounted)
	return nil
}

// slow is what a class that traces slow requests means by it.
const slow = "slow:10ms"

func samplingOf(t spec.Trace) (telemetry.Sampling, error) {
	if t.Kind == spec.TraceSlow {
		return telemetry.ParseSampling(slow)
	}
	return telemetry.ParseSampling(t.String())
}

// stateOf tells damage from other failures.
func stateOf(err error) string {
	var damage *journal.DamageError
	var foreign *diskdir.NotOursError
	var lost *MajorityLostError
	switch {
	case errors.As(err, &lost):
		return status.MajorityLost
	case errors.Is(err, replication.ErrReplace):
		return status.Failed // the next start mends it
	case errors.Is(err, store.ErrDamaged) || errors.As(err, &damage) || errors.As(err, &foreign):
		return status.Damaged
	}
	return status.Failed
}

// damaged tells that what is on the disk is not what was written: another start finds the same, and so does another version.
func damaged(err error) bool {
	var foreign *diskdir.NotOursError
	return stateOf(err) == status.Damaged && !(errors.As(err, &foreign) && foreign.Sound)
}

func (v *volume) openLog(ctx context.Context) error {
	// The connection comes first: its session decides which answers and open files of an earlier process still count.
	var err error
	if v.client, err = v.attach(ctx); err != nil {
		return fmt.Errorf("attach to the mount: %w", err)
	}
	return v.advise(v.openReplica(ctx))
}

// advise says what to do about a replica that is not served as it is.
func (v *volume) advise(err error) error {
	var damaged *journal.DamageError
	var mismatch *journal.MismatchError
	var foreign *diskdir.NotOursError
	if !errors.Is(err, store.ErrDamaged) && !errors.As(err, &damaged) && !errors.As(err, &mismatch) && !errors.As(err, &foreign) {
		return err
	}
	dir := v.s.cfg.Disks
	for _, m := range v.object.Members {
		if m.Node == v.s.cfg.Node {
			dir = v.s.cfg.diskPath(m.Disk)
		}
	}
	return fmt.Errorf("%w; nothing that the volume needs was changed; keep a copy of %s, run `remora check %s`, and see docs/check.md", err, dir, dir)
}

// openReplica takes the next epoch, brings the replica up to its log, and opens the file system.
func (v *volume) openReplica(ctx context.Context) error {
	if err := v.prepare(ctx); err != nil {
		return err
	}
	if v.object.Several() {
		return v.openHosted(ctx)
	}
	if v.s.host != nil {
		v.s.host.openedAlone(v.object.Name)
	}
	replica, disk, err := v.claim(ctx)
	if err != nil {
		return err
	}
	group, err := disk.disk.OpenGroup(replication.GroupConfig{Replica: replica, Keys: v.keys, Trace: v.trace, Logger: v.s.cfg.Logger.With("volume", v.object.Name)})
	if err != nil {
		return errors.Join(err, replica.Close())
	}
	v.group = group
	return v.own(ctx)
}

// attach takes the mount from its holder. One that cannot be taken over is made anew: a new session, of which the kernel knows nothing.
func (v *volume) attach(ctx context.Context) (*holder.Client, error) {
	path := strings.TrimPrefix(v.s.cfg.Holder, "unix:")
	c, err := v.attachOnce(ctx, path)
	if err != nil || c.State != holder.Ready || session.CanTakeOver(c.Reply) {
		return c, err
	}
	v.s.cfg.Logger.Error("the kernel cannot send again what an earlier sidecar had read (no FUSE_NOTIFY_RESEND, Linux 6.9): mounting anew; "+
		"programs that have files open there get ENOTCONN and must be restarted", "volume", v.object.Name)
	if err := errors.Join(c.Lost(), c.Close()); err != nil {
		return nil, err
	}
	return v.attachOnce(ctx, path)
}

// own opens our epoch and the file system.
func (v *volume) own(ctx context.Context) error {
	n, err := v.group.Recover(ctx)
	if err != nil {
		return fmt.Errorf("recover what was answered: %w", err)
	}
	if err := v.abandon(ctx); err != nil {
		return err
	}
	owner, err := v.ownerRecord()
	if err != nil {
		return err
	}
	if err := v.group.BeginEpoch(ctx, owner); err != nil {
		return fmt.Errorf("open epoch %d: %w", owner.Name.Epoch, err)
	}
	var source cachefs.Source // nil: what is not here is nowhere
	if v.object.Several() {
		source = v.group
	}
	fs, err := cachefs.Open(ctx, cachefs.Config{
		Log: v.group, State: v.group.Store(), Source: source, Keys: v.keys, Epoch: owner.Name.Epoch, Incarnation: owner.Name.Incarnation,
		Session: v.client.SessionID, NewSession: v.client.State == holder.Fresh, Size: uint64(v.object.Size), Free: v.group.Free,
		Now: v.s.cfg.now, Logger: v.s.cfg.Logger.With("volume", v.object.Name),
	}, v.object.Phase == v1alpha1.VolumeBootstrapping)
	if err != nil {
		return fmt.Errorf("open file system: %w", err)
	}
	v.mu.Lock()
	v.fs, v.ready = fs, true
	v.mu.Unlock()
	if err := v.noteSession(); err != nil {
		return fmt.Errorf("note the session: %w", err)
	}
	v.s.cfg.Logger.Info("volume is open", "volume", v.object.Name, "epoch", owner.Name.Epoch, "recovered", n, "index", v.group.Status().Applied)
	return v.becomeReady(ctx)
}

// abandon gives the mount up if programs there hold answers that are not true any more, and makes it anew.
func (v *volume) abandon(ctx context.Context) error {
	lost := v.group.LostAnswers()
	elsewhere, err := v.answeredElsewhere()
	if err != nil || lost == 0 && !elsewhere || v.client.State == holder.Fresh {
		return err
	}
	v.s.cfg.Logger.Error("what was answered here before it was on a majority of disks is lost (another owner had taken over, or the replica that had it was given up): "+
		"mounting anew; programs that have files open there get ENOTCONN and must be restarted", "volume", v.object.Name, "records", lost)
	if err := errors.Join(v.client.Lost(), v.client.Close()); err != nil {
		return err
	}
	v.client, err = holder.Attach(ctx, strings.TrimPrefix(v.s.cfg.Holder, "unix:"), v.spec.Name)
	return err
}

// ownerRecord opens the epoch that claim won, with a salt of its own to seal with.
func (v *volume) ownerRecord() (*record.Record, error) {
	value := make([]byte, 8+seal.SaltSize)
	meta.PutEpoch(value, record.Epoch(v.object.Epoch))
	if _, err := v.s.cfg.rand.Read(value[8:]); err != nil {
		return nil, fmt.Errorf("draw a salt: %w", err)
	}
	return &record.Record{
		Header: record.Header{Kind: record.Owner, Time: v.s.cfg.now().UnixNano(),
			Name: record.Name{Epoch: record.Epoch(v.object.Epoch), Incarnation: record.Incarnation(v.object.Incarnation)}},
		Muts: []record.Mutation{{Key: meta.SaltKey(v.object.Incarnation), Value: value}},
	}, nil
}

func (v *volume) mount(context.Context) error {
	var err error
	v.session, err = session.Start(session.Config{
		FD: v.client.FD, Connection: v.client, Init: v.client.Init, Reply: v.client.Reply, NoResend: v.s.cfg.NoResend,
		Volume: v.object.Name, Trace: v.trace, Logger: v.s.cfg.Logger,
	}, v.fs)
	return err
}

// errHolderGone: whoever made the mount is gone; another may be about to make it anew.
var errHolderGone = errors.New("the holder of the mount is gone")

// wait returns nil when ctx ends or the mount has ended, an error when something broke.
func (v *volume) wait(ctx context.Context) error {
	if v.s.cfg.held() {
		return v.keep(ctx)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-v.client.Done():
		return errHolderGone
	case <-v.session.Done():
		return v.session.Wait(ctx)
	}
}

// close ends what is open, in the order of dependence. Where requests cannot be answered in time it leaves all open, for the process to end as
// if it were killed: the kernel keeps the requests for the next process. To close the group would answer them with errors.
func (v *volume) close() error {
	if v.session != nil && !v.answerAll() {
		v.left = true
		if v.hosted != nil {
			v.hosted.left.Store(true)
		}
		v.setState(status.Offline)
		return nil
	}
	if v.fs != nil {
		v.fs.Close()
	}
	var err error
	if v.group != nil && v.hosted == nil {
		err = v.group.Close(context.Background())
	}
	v.setState(status.Offline)
	// The descriptor stays open until the process ends: workers may still be in a read.
	return err
}

// How long a process that ends waits for the requests that it has read.
const (
	answerTime = 5 * time.Second
	// leaderlessTime is for a group without a leader: no majority of it is there, or one is just being elected.
	leaderlessTime = time.Second
)

// answerAll stops the session; false if requests are under way that are not answered in time, as an fsync without a majority.
func (v *volume) answerAll() bool {
	stopped := make(chan struct{})
	go func() { // ends with the process, if not before
		v.session.Stop()
		close(stopped)
	}()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	start := time.Now()
	led := start // when there was a leader last
	for said := false; ; {
		select {
		case <-stopped:
			return true
		case <-look.C:
		}
		leader := v.hasLeader()
		if leader {
			led = time.Now()
		}
		if time.Since(start) > answerTime || time.Since(led) > leaderlessTime {
			v.s.cfg.Logger.Warn("requests are left to the next process: they cannot be answered now", "volume", v.object.Name, "leader", leader, "waited", time.Since(start))
			return false
		}
		if !said && time.Since(start) > leaderlessTime/4 {
			said = true
			v.s.cfg.Logger.Info("ending: waiting until the requests that were read are answered", "volume", v.object.Name, "leader", leader, "limit", answerTime)
		}
	}
}

// hasLeader tells whether the volume's group knows a leader. One that is alone needs none.
func (v *volume) hasLeader() bool {
	of := v.group.Status().Group
	return of == nil || of.Leader != 0
}
