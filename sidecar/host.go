package sidecar

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/telemetry"
)

// host serves the replicas of the tenant's volumes that belong on this node: those of the pod's own volumes, and those of other pods.
// It looks at the Volume objects again and again, and makes true what they say:
//
//  1. poll reads the objects. Of volumes of one copy it knows nothing: their owner alone touches them.
//  2. join makes the replica that an object wants here, durable before the object names it (I6: it is empty, and only the phase
//     Bootstrapping, which the last of a volume's first members sets, lets it begin a log).
//  3. serve opens each member of this node whose disk directory is ours, and says in the object who serves it and where.
//  4. drop closes what is no longer a member.
//  5. mend (hostmend.go) sees to what has stopped, or is damaged.
//
// A disk directory has one server. A pod's sidecar takes disk-0 unless that is another pod's; a keeper takes all that are free. A volume
// whose pod runs here is left to that pod's sidecar until a replica of it is in a directory of ours.
type host struct {
	cfg   *Config
	auth  objects
	disks *disks
	open  opener
	// listen begins to listen for peers; nil where there is no certificate.
	listen func(*host) (network, error)

	ctx   context.Context // of everything that it starts
	stop  context.CancelFunc
	work  sync.WaitGroup
	kick  chan struct{} // look now
	ended chan error    // why the process shall end

	forgot  time.Time  // by poll alone
	joining sync.Mutex // held by join, over the making of a replica; above mu

	mu      sync.Mutex
	net     network                                   // nil until the first replica is here
	all     []v1alpha1.Volume                         // as listed last, those of one copy among them
	objects map[string]v1alpha1.Volume                // those of several copies
	groups  map[diskdir.ID]string                     // name of the volume by its group
	byID    map[string]map[diskdir.ID]v1alpha1.Member // a volume's members
	traces  map[string]*telemetry.VolumeRecorder      // of the pod's own volumes, once their owner is there
	hosted  map[diskdir.ID]*hosted
	given   map[string]givenUp
	alone   map[string]bool   // the pod's own volumes that are open as a group of one
	said    map[string]string // what was logged last about a volume, so that it is said once
	polled  bool
}

// objects are the Volume objects of the tenant.
type objects interface {
	authority.GetUpdater
	List(ctx context.Context) ([]v1alpha1.Volume, error)
}

// network carries frames between the sidecars of the tenant.
type network interface {
	Addr() string // where this process is reached
	Close() error
}

// pollEvery is how often the objects are looked at.
const pollEvery = 200 * time.Millisecond

func newHost(cfg *Config, auth objects, d *disks, open opener) *host {
	return &host{cfg: cfg, auth: auth, disks: d, open: open, kick: make(chan struct{}, 1), ended: make(chan error, 1), given: map[string]givenUp{}, alone: map[string]bool{}, objects: map[string]v1alpha1.Volume{},
		groups: map[diskdir.ID]string{}, byID: map[string]map[diskdir.ID]v1alpha1.Member{}, traces: map[string]*telemetry.VolumeRecorder{}, hosted: map[diskdir.ID]*hosted{}, said: map[string]string{}}
}

// start begins to look; close ends it.
func (h *host) start(ctx context.Context) {
	h.ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx)) // its groups outlive the mounts, which need them to end well
	h.work.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for h.ctx.Err() == nil {
			h.poll(h.ctx)
			select {
			case <-h.ctx.Done():
			case <-tick.C:
			case <-h.kick:
			}
		}
	})
}

// look has the objects looked at soon.
func (h *host) look() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// close gives all replicas back.
func (h *host) close() error {
	if h.stop == nil {
		return nil
	}
	h.stop()
	h.work.Wait()
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.hosted))
	net := h.net
	h.mu.Unlock()
	errs := make([]error, len(all))
	var closing sync.WaitGroup
	for n, r := range all {
		closing.Go(func() { errs[n] = r.close() })
	}
	closing.Wait()
	if net != nil {
		errs = append(errs, net.Close())
	}
	return errors.Join(errs...)
}

func (h *host) poll(ctx context.Context) {
	err := h.refresh(ctx)
	if ctx.Err() != nil {
		return
	}
	h.say("", err)
	h.mu.Lock()
	all := slices.SortedFunc(maps.Values(h.objects), func(a, b v1alpha1.Volume) int { return strings.Compare(a.Name, b.Name) })
	h.polled = h.polled || err == nil
	h.mu.Unlock()
	for i := range all {
		if o := &all[i]; h.concerns(o) {
			h.say(o.Name, h.tend(ctx, o))
		}
	}
	h.drop()
	if err == nil && time.Since(h.forgot) > forgetEvery {
		h.forget()
		h.forgot = time.Now()
	}
}

// forgetEvery is how often the disks are looked through for replicas that are no members any more.
const forgetEvery = 5 * time.Second

// forget lets the journals of the disks that are served here go on without replicas that are no members any more.
func (h *host) forget() {
	for _, d := range h.disks.list() {
		infos, err := d.dir.Replicas()
		if err != nil {
			continue
		}
		for _, info := range infos {
			o, known := h.object(info.Volume)
			if known && o.UID == info.VolumeUID && o.Phase == v1alpha1.VolumeReady && o.Member(info.Replica.String()) == nil && !h.isHosted(info.Replica) {
				d.disk.Forget(info)
			}
		}
	}
}

func (h *host) isHosted(id diskdir.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hosted[id] != nil
}

// refresh reads the objects. What cannot be read is left as it was.
func (h *host) refresh(ctx context.Context) error {
	all, err := h.auth.List(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.all = all
	}
	for _, o := range all {
		if o.Several() {
			h.learnLocked(o)
		}
	}
	return err
}

func (h *host) learnLocked(o v1alpha1.Volume) {
	if known, ok := h.objects[o.Name]; ok && known.Generation > o.Generation {
		return
	}
	h.objects[o.Name] = o
	if id, err := diskdir.ParseID(o.Group); err == nil {
		h.groups[id] = o.Name
	}
	members := map[diskdir.ID]v1alpha1.Member{}
	for _, m := range o.Members {
		if id, err := diskdir.ParseID(m.Replica); err == nil {
			members[id] = m
		}
	}
	h.byID[o.Name] = members
}

// concerns tells whether the object says anything about this node.
func (h *host) concerns(o *v1alpha1.Volume) bool {
	return slices.Contains(o.Nodes, h.cfg.Node) || slices.ContainsFunc(o.Members, func(m v1alpha1.Member) bool { return m.Node == h.cfg.Node })
}

// say logs what is wrong with a volume, once.
func (h *host) say(volume string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	h.mu.Lock()
	before := h.said[volume]
	h.said[volume] = text
	h.mu.Unlock()
	switch {
	case text == before:
	case text == "":
		h.cfg.Logger.Info("the trouble with a replica here is over", "volume", volume)
	default:
		h.cfg.Logger.Error("a replica that belongs here is not served", "volume", volume, "err", err)
	}
}

// sayInUse logs that a disk directory is left to another process, and to which, once for each.
func (h *host) sayInUse(disk string, err error) {
	text := ""
	if errors.Is(err, diskdir.ErrInUse) {
		text = err.Error()
	}
	h.mu.Lock()
	before := h.said["in use "+disk]
	h.said["in use "+disk] = text
	h.mu.Unlock()
	if text != before && text != "" {
		h.cfg.Logger.Info("a disk directory here is left to the process that serves it, until that ends", "disk", disk, "err", err)
	}
}

// tend does for one volume what its object asks of this node.
func (h *host) tend(ctx context.Context, o *v1alpha1.Volume) error {
	h.claimDisks(o)
	if h.wanted(o) {
		joined, err := h.join(ctx, o.Name, nil)
		if err != nil {
			return err
		}
		*o = joined
	}
	if h.isAlone(o.Name) {
		h.end(fmt.Errorf("volume %s shall have other copies: its only replica is opened anew, as one of a group", o.Name))
		return nil
	}
	if o.Phase == v1alpha1.VolumePending || h.owns(o.Name) && !h.ownerIsHere(o.Name) {
		return nil
	}
	var errs []error
	for _, m := range slices.Clone(o.Members) { // what is called here may change the object
		if m.Node != h.cfg.Node || m.Lost {
			continue
		}
		if h.disks.served(m.Disk) != nil {
			errs = append(errs, h.serve(ctx, o, &m))
		} else {
			errs = append(errs, h.mendDisk(ctx, o, &m))
		}
	}
	return errors.Join(errs...)
}

// wanted tells whether a replica is to be made here by us.
func (h *host) wanted(o *v1alpha1.Volume) bool {
	if !slices.Contains(o.Nodes, h.cfg.Node) || o.Survivor != "" || o.MajorityLost() {
		return false
	}
	for i := range o.Members {
		if m := &o.Members[i]; m.Node == h.cfg.Node && !m.Lost && m.Witness == h.witnessHere(o) {
			return false
		}
	}
	if h.owns(o.Name) {
		return o.Phase != v1alpha1.VolumePending // before, the volume itself joins, with its key
	}
	return o.OwnerNode != h.cfg.Node && h.disks.served(h.hostDisk()) != nil
}

func (h *host) owns(volume string) bool { return h.disks.owns(volume) }

// witnessHere tells whether it is the volume's witness that is wanted on this node.
func (h *host) witnessHere(o *v1alpha1.Volume) bool { return o.Witness == h.cfg.Node }

// hostedNow returns the replica of a volume that is served here, if one is. A witness is none.
func (h *host) hostedNow(volume string) *hosted {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.hosted {
		if r.volume == volume && !r.witness {
			return r
		}
	}
	return nil
}

// object returns the newest that is known of a volume.
func (h *host) object(volume string) (v1alpha1.Volume, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o, ok := h.objects[volume]
	return o, ok
}

// modify changes an object and remembers what it is then.
func (h *host) modify(ctx context.Context, volume string, change func(*v1alpha1.Volume) error) (v1alpha1.Volume, error) {
	o, err := authority.Modify(ctx, h.auth, volume, change)
	if err == nil {
		h.mu.Lock()
		h.learnLocked(o)
		h.mu.Unlock()
	}
	return o, err
}

// drop closes replicas whose members are gone. Their directories stay: nothing that was data is deleted by a guess.
func (h *host) drop() {
	h.mu.Lock()
	var gone []*hosted
	for id, r := range h.hosted {
		if o := h.objects[r.volume]; o.Member(id.String()) == nil && !h.owns(r.volume) {
			gone = append(gone, r)
			delete(h.hosted, id)
		}
	}
	h.mu.Unlock()
	for _, r := range gone {
		h.cfg.Logger.Info("a replica here is no longer a member; its directory stays", "volume", r.volume, "replica", r.id.String())
		if err := r.close(); err != nil {
			h.cfg.Logger.Error("close a replica", "volume", r.volume, "replica", r.id.String(), "err", err)
		}
	}
}
