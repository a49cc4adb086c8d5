package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/identity"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/transport"
	"github.com/remora-storage/remora/telemetry"
)

// openNetwork listens for the tenant's other sidecars, at any port of this machine: `remora dev` has all nodes on one.
func openNetwork(h *host) (*transport.Transport, error) {
	files, err := identity.Open(identity.FilesConfig{Dir: strings.TrimPrefix(h.cfg.Identity, "file:"), Logger: h.cfg.Logger})
	if err != nil {
		return nil, err
	}
	self := files.Identity()
	if self.Tenant != h.cfg.Namespace || self.Pod != h.cfg.Pod {
		return nil, fmt.Errorf("--identity %s is the certificate of %s, and this is %s/%s", h.cfg.Identity, self, h.cfg.Namespace, h.cfg.Pod)
	}
	return transport.Open(h.ctx, transport.Config{Listen: "127.0.0.1:0", TLS: files.TLS, Self: self, Handler: handler{h}, Lost: h.lost, Logger: h.cfg.Logger})
}

// handler answers the transport.
type handler struct{ h *host }

func (a handler) Authorize(p transport.Identity, group, from, to uint64) error {
	return a.h.authorize(peer{p.Tenant, p.Pod, p.Volumes}, group, from, to)
}

func (a handler) Receive(p transport.Identity, f transport.Frame) {
	g := a.h.peerGroup(f.To)
	if g == nil {
		return // not open yet: it is sent again
	}
	if err := g.Deliver(f.Kind, f.From, f.Body); err != nil {
		a.h.say("message from "+p.Pod, err)
	}
}

// Drained makes durable what was received, and answers.
func (a handler) Drained() { a.h.disks.commit() }

// Allows is Authorize without looking at the object again.
func (a handler) Allows(p transport.Identity, group, from, to uint64) bool {
	return a.h.allowed(peer{p.Tenant, p.Pod, p.Volumes}, diskdir.ID(group), diskdir.ID(from), diskdir.ID(to)) == nil && p.Tenant == a.h.cfg.Namespace
}

func (a handler) Bulk(ctx context.Context, _ transport.Identity, r transport.Request, w io.Writer) error {
	g := a.h.peerGroup(r.To)
	if g == nil {
		return errors.New("the replica is not open here")
	}
	return g.Bulk(ctx, r.Body, w)
}

// lost tells the groups that the process at an address has ended.
func (h *host) lost(addr string) {
	gone := map[*hosted]uint64{}
	h.mu.Lock()
	for _, r := range h.hosted {
		for id, m := range h.byID[r.volume] {
			if m.Address == addr && id != r.id {
				gone[r] = uint64(id)
			}
		}
	}
	h.mu.Unlock()
	for r, id := range gone {
		if g, ok := r.open().(*peerGroup); ok {
			g.Gone(id)
		}
	}
}

// peerGroup is a replica's part of a group of several.
type peerGroup struct {
	*replication.Group
}

func (h *host) peerGroup(to uint64) *peerGroup {
	h.mu.Lock()
	r := h.hosted[diskdir.ID(to)]
	h.mu.Unlock()
	if r == nil {
		return nil
	}
	g, _ := r.open().(*peerGroup)
	return g
}

// full is how little room makes a replica's disk full in status: a request of the kernel may bring half of it.
const full = 2 << 20

// Member is what the replica knows of itself.
func (g *peerGroup) Member() memberStatus {
	st := g.Status()
	m := memberStatus{Applied: uint64(st.Applied), Committed: uint64(st.Committed), Err: st.Err, Replacing: st.Hollow, Replaced: st.Replaced}
	if of := st.Group; of != nil {
		m.Leader, m.Term, m.Last, m.LastTerm = of.Leader, of.Term, of.Last, of.LastTerm
		m.CaughtUp = of.Known && m.Applied >= of.Settled
		m.Behind = max(of.Target, m.Applied) - m.Applied
	}
	if st.Witness != nil {
		m.Kept = st.Witness.Bytes
	}
	m.Filled, m.Unfilled, m.WentAlone = g.Filled(), g.Unfilled(), g.WentAlone()
	m.Missing = g.FillStatus().AbsentBytes
	room, known := g.RoomHere()
	m.Full = known && room < full
	return m
}

// openGroup opens the replica's part of its group.
func openGroup(_ context.Context, h *host, r *hosted, what opening) (hostedGroup, error) {
	net, ok := what.net.(*transport.Transport)
	if !ok {
		return nil, errors.Join(errors.New("no transport"), what.replica.Close())
	}
	group := uint64(what.replica.Info().Group)
	header := func(kind uint8, to uint64) transport.Header {
		return transport.Header{Kind: kind, Group: group, From: uint64(r.id), To: to}
	}
	peers := &replication.PeersConfig{
		SendSummed: func(to uint64, kind uint8, sums []func(int) uint32, parts ...[]byte) {
			if addr := h.address(r.volume, to); addr != "" {
				head := header(kind, to)
				head.Sums = sums
				net.Queue(addr, head, parts...)
			}
		},
		Flush: func(to uint64) {
			if addr := h.address(r.volume, to); addr != "" {
				net.Flush(addr)
			}
		},
		Fetch: func(ctx context.Context, from uint64, request []byte) (io.ReadCloser, error) {
			addr := h.address(r.volume, from)
			if addr == "" {
				return nil, fmt.Errorf("replica %s has no address", diskdir.ID(from))
			}
			return net.Bulk(ctx, addr, transport.Request{Kind: bulkKind, Group: group, From: uint64(r.id), To: from, Body: request})
		},
		Members: func() []replication.Member { return h.wantedMembers(r.volume) },
		Node:    func(replica uint64) string { return h.nodeOf(r.volume, replica) },
		Copies: func() int {
			o, _ := h.object(r.volume)
			return o.Voters()
		},
		Changed: func(index uint64, voters, learners []uint64, leads bool) {
			if !leads {
				h.look()
				return
			}
			if err := h.changed(h.ctx, r.volume, index, voters, learners); err != nil && h.ctx.Err() == nil {
				h.cfg.Logger.Warn("the Volume object does not know the group's members yet; it is told again", "volume", r.volume, "err", err)
			}
		},
		Force:   what.object.Survivor == r.id.String(),
		Witness: r.witness, KeepBytes: h.cfg.WitnessBytes,
	}
	if what.object.Phase == v1alpha1.VolumeBootstrapping {
		for _, m := range what.object.Members {
			id, err := diskdir.ParseID(m.Replica)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("volume object: %w", err), what.replica.Close())
			}
			peers.Founders = append(peers.Founders, uint64(id))
		}
	}
	g, err := what.disk.disk.OpenGroup(replication.GroupConfig{Replica: what.replica, Keys: what.keys, Trace: h.traceOf(r.volume), Logger: h.cfg.Logger.With("volume", r.volume), Peers: peers})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w; %w", err, errOnlyOnce), what.replica.Close())
	}
	return &peerGroup{g}, nil
}

// bulkKind is the only kind of bulk request: what it asks is in its body.
const bulkKind = 1

// wantedMembers are the members that the object names, for the group's leader.
func (h *host) wantedMembers(volume string) []replication.Member {
	var all []replication.Member
	for _, m := range h.members(volume) {
		if id, err := diskdir.ParseID(m.Replica); err == nil {
			all = append(all, replication.Member{ID: uint64(id), Role: m.Role, Filled: m.Filled, Witness: m.Witness})
		}
	}
	return all
}

// address is where a member of a volume is served; empty if it is nowhere.
func (h *host) address(volume string, replica uint64) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.byID[volume][diskdir.ID(replica)]; !m.Lost {
		return m.Address
	}
	return ""
}

// nodeOf is where a member's disk is; empty where the object does not name it.
func (h *host) nodeOf(volume string, replica uint64) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byID[volume][diskdir.ID(replica)].Node
}

// traceOf is where a volume's spans go: those of the pod's own volumes, and nowhere for others'.
func (h *host) traceOf(volume string) *telemetry.VolumeRecorder {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.traces[volume]
}

// owner is called when one of the pod's own volumes begins to open, with where its spans go. Its replica is not opened before.
func (h *host) owner(volume string, trace *telemetry.VolumeRecorder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.traces[volume] = trace
}

// openedAlone notes that the replica of one of the pod's own volumes is opened as a group of one: not by the host.
func (h *host) openedAlone(volume string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alone[volume] = true
}

func (h *host) isAlone(volume string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.alone[volume]
}

func (h *host) ownerIsHere(volume string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, here := h.traces[volume]
	return here
}
