package sidecar

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/status"
)

// hosted is one replica that this process serves: of the pod's own volume or of another's.
type hosted struct {
	volume  string
	id      diskdir.ID
	witness bool
	path    string        // its directory
	done    chan struct{} // closed when it is open, or has failed
	left    atomic.Bool   // to the end of the process: its owner has requests under way that cannot be answered

	mu      sync.Mutex
	group   hostedGroup // set when it is open
	keys    *seal.Keys  // that the group learns salts for: its owner must use the same
	err     error       // why it is not
	failed  time.Time
	stopped time.Time // when that was noticed of one that was open
}

// hostedGroup is a replica's part of its group.
type hostedGroup interface {
	Member() memberStatus
	Close(ctx context.Context) error
}

// memberStatus is what a replica knows of itself.
type memberStatus struct {
	Leader             uint64 // replica ID; 0: none is known
	Term               uint64
	Applied, Committed uint64
	Replacing          bool   // its state is being replaced by a peer's
	Replaced           bool   // it was, or is being, since it was opened
	Behind             uint64 // log positions that its leader had committed when it said so last, and it has not applied
	CaughtUp           bool   // has applied all that its leader had committed a second ago, or when it said so first
	WentAlone          bool   // is the group, which has lost the majority of its disks (replication.Group.WentAlone)
	Last, LastTerm     uint64
	Filled             bool  // has every block of every blob, verified
	Unfilled           bool  // has not, or is about to lose some
	Missing            int64 // bytes that are not here yet
	Kept               int64 // bytes of records that a witness keeps
	Full               bool  // its disk takes no more
	Err                error // why it has stopped
}

// opener opens a member's group. It owns the replica, and closes it if it fails.
type opener func(ctx context.Context, h *host, r *hosted, what opening) (hostedGroup, error)

// opening is what an opener is given.
type opening struct {
	object  v1alpha1.Volume
	replica *diskdir.Replica
	disk    *openDisk
	keys    *seal.Keys
	net     network
}

// retryAfter is how long a replica that could not be opened is left alone.
const retryAfter = 5 * time.Second

// serve opens a member, if it is not open, and says in the object that it is served here.
func (h *host) serve(ctx context.Context, o *v1alpha1.Volume, m *v1alpha1.Member) error {
	id, err := diskdir.ParseID(m.Replica)
	if err != nil {
		return fmt.Errorf("volume object: %w", err)
	}
	net, err := h.network()
	if err != nil {
		return err
	}
	if m.Pod != h.cfg.Pod || m.Address != net.Addr() {
		changed, err := h.register(ctx, o.Name, m.Replica, net.Addr())
		if err != nil {
			return err
		}
		*o = changed
	}
	r := h.begin(o, id, m.Disk, net)
	st := r.status()
	if o.Survivor == m.Replica && st.WentAlone {
		_, err := h.modify(ctx, o.Name, func(o *v1alpha1.Volume) error {
			if o.Survivor != id.String() {
				return authority.ErrUnchanged
			}
			o.Survivor = ""
			return nil
		})
		return errors.Join(st.Err, err)
	}
	if now := m.Filled && !st.Unfilled || st.Filled; m.Role == v1alpha1.RoleLearner && now != m.Filled && o.Phase == v1alpha1.VolumeReady {
		_, err := h.modify(ctx, o.Name, func(o *v1alpha1.Volume) error {
			m := o.Member(id.String())
			if m == nil || m.Role != v1alpha1.RoleLearner || m.Filled == now {
				return authority.ErrUnchanged
			}
			m.Filled = now
			return nil
		})
		return errors.Join(st.Err, err)
	}
	if st.Err != nil {
		return h.mend(ctx, o, r, st.Err)
	}
	return nil
}

// register names this process as the one that serves a member.
func (h *host) register(ctx context.Context, volume, replica, address string) (v1alpha1.Volume, error) {
	return h.modify(ctx, volume, func(o *v1alpha1.Volume) error {
		m := o.Member(replica)
		if m == nil {
			return authority.ErrUnchanged
		}
		m.Pod, m.Address = h.cfg.Pod, address
		return nil
	})
}

// begin returns the hosted replica, and starts to open it if that was not done, or failed a while ago.
func (h *host) begin(o *v1alpha1.Volume, id diskdir.ID, disk string, net network) *hosted {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.hosted[id]; r != nil && !r.again() {
		return r
	}
	what := opening{object: o.Clone(), disk: h.disks.served(disk), net: net}
	r := &hosted{volume: o.Name, id: id, path: what.disk.dir.ReplicaPath(id), done: make(chan struct{})}
	if m := what.object.Member(id.String()); m != nil {
		r.witness = m.Witness
	}
	h.hosted[id] = r
	h.work.Go(func() {
		defer close(r.done)
		var group hostedGroup
		var keys *seal.Keys
		var err error
		if !r.witness { // it has none, and needs none
			keys, err = h.keys(&what.object)
		}
		if what.keys = keys; err == nil {
			group, err = h.openReplica(r, what)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.group, r.keys, r.err, r.failed = group, keys, err, time.Now()
	})
	return r
}

func (h *host) openReplica(r *hosted, what opening) (_ hostedGroup, err error) {
	if what.replica, err = what.disk.dir.OpenReplica(r.id); err != nil {
		return nil, fmt.Errorf("%w; an empty disk never takes its place", err)
	}
	if info := what.replica.Info(); info.VolumeUID != what.object.UID || info.Group.String() != what.object.Group {
		return nil, errors.Join(fmt.Errorf("replica %s belongs to volume %s (%s), not to %s (%s)", r.id, info.Volume, info.VolumeUID,
			what.object.Name, what.object.UID), what.replica.Close())
	} else if info.Witness != r.witness {
		return nil, errors.Join(fmt.Errorf("replica %s: its superblock (witness: %v) and the Volume object (witness: %v) do not agree", r.id, info.Witness, r.witness),
			what.replica.Close())
	}
	return h.open(h.ctx, h, r, what)
}

// keys reads the key of a volume that has one.
func (h *host) keys(o *v1alpha1.Volume) (*seal.Keys, error) {
	if o.KeyID == "" {
		return nil, nil
	}
	path := filepath.Join(strings.TrimPrefix(h.cfg.Keys, "file:"), o.Name+".key")
	key, err := readKey(path)
	if err != nil {
		return nil, fmt.Errorf("key of the volume: %w", err)
	}
	keys, err := seal.New(key, h.cfg.Namespace)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if keys.ID() != o.KeyID {
		return nil, fmt.Errorf("%s has key %s, and the volume is sealed with key %s: put the right key file back; nothing was changed", path, keys.ID(), o.KeyID)
	}
	return keys, nil
}

// errOnlyOnce: a replica's journal is read once by a process.
var errOnlyOnce = errors.New("start this process again when that is mended (in dev: remora dev restart-pod)")

// again tells whether it is time to open it anew after a failure. Damage stays: another try finds the same.
func (r *hosted) again() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	final := errors.Is(r.err, errOnlyOnce) || stateOf(r.err) == status.Damaged
	return r.err != nil && !final && time.Since(r.failed) > retryAfter
}

// opened waits a while until the replica is open or has failed.
func (r *hosted) opened(ctx context.Context, limit time.Duration) (bool, error) {
	select {
	case <-r.done:
	case <-time.After(limit):
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err == nil, r.err
}

// open returns the group of a replica that is open.
func (r *hosted) open() hostedGroup {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.group
}

func (r *hosted) status() memberStatus {
	r.mu.Lock()
	group, err := r.group, r.err
	r.mu.Unlock()
	if group == nil {
		return memberStatus{Err: err}
	}
	return group.Member()
}

// close gives the replica back, also one that is just being opened.
func (r *hosted) close() error {
	<-r.done
	group := r.open()
	if group == nil || r.left.Load() {
		return nil
	}
	return group.Close(context.Background())
}
