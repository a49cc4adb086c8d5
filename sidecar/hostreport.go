package sidecar

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/status"
)

// settled tells what readiness waits for: every voter here that can catch up has done so.
func (h *host) settled() error {
	if !h.hasPolled() {
		return errors.New("the Volume objects are not read yet")
	}
	for _, r := range h.list() {
		o, _ := h.object(r.volume)
		m := o.Member(r.id.String())
		if m == nil || !m.Votes() || o.MajorityLost() {
			continue
		}
		if st := r.status(); st.Err == nil && !st.CaughtUp {
			return fmt.Errorf("replica %s of volume %s is catching up", r.id, r.volume)
		}
	}
	return nil
}

func (h *host) hasPolled() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.polled
}

// list is what is served here. A group is never asked anything with h.mu held: it asks for members with its own lock held.
func (h *host) list() []*hosted {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.hosted), func(a, b *hosted) int {
		return cmp.Or(strings.Compare(a.volume, b.volume), cmp.Compare(a.id, b.id))
	})
}

// report is what is served here.
func (h *host) report() []status.Hosted {
	list := []status.Hosted{}
	for _, r := range h.list() {
		st := r.status()
		o, _ := h.object(r.volume)
		e := status.Hosted{Volume: r.volume, ID: r.id.String(), State: stateOfReplica(st), Term: st.Term, Applied: st.Applied,
			Committed: st.Committed, Last: st.Last, LastTerm: st.LastTerm, Missing: uint64(max(st.Missing, 0)), Kept: uint64(max(st.Kept, 0)), Full: st.Full}
		if m := o.Member(e.ID); m != nil {
			e.Role, e.Disk = roleOf(m), m.Disk
		}
		if st.Leader != 0 {
			e.Leader = diskdir.ID(st.Leader).String()
		}
		if st.Err != nil {
			e.Error = st.Err.Error()
		}
		list = append(list, e)
	}
	return list
}

func stateOfReplica(st memberStatus) string {
	switch {
	case st.Err != nil && stateOf(st.Err) == status.Damaged:
		return status.Damaged
	case st.Err != nil:
		return status.Offline
	case st.Replacing:
		return status.Rebuilding
	case st.CaughtUp && st.Filled:
		return status.InSync
	}
	return status.Syncing
}

// replicas are a volume's members as this process knows them: what it serves itself, it knows; of the others their role.
func (h *host) replicas(volume string) []status.Replica {
	list := []status.Replica{}
	o, _ := h.object(volume)
	here := h.list()
	for _, m := range o.Members {
		r := replicaOf(m)
		if i := slices.IndexFunc(here, func(r *hosted) bool { return r.id.String() == m.Replica }); i >= 0 {
			st := here[i].status()
			r.State, r.MatchIndex, r.Missing, r.Kept, r.Full = stateOfReplica(st), st.Applied, uint64(max(st.Missing, 0)), uint64(max(st.Kept, 0)), st.Full
		}
		list = append(list, r)
	}
	return append(list, missing(&o)...)
}

// missing are lines for the copies that a volume shall have and of which nothing is there: they were given up, or their loss was accepted,
// and what takes their place is still to be made.
func missing(o *v1alpha1.Volume) (list []status.Replica) {
	if !o.Several() || o.Phase != v1alpha1.VolumeReady {
		return nil
	}
	copies := 0
	for i := range o.Members {
		if !o.Members[i].Witness {
			copies++
		}
	}
	for ; copies < o.Copies(); copies++ {
		list = append(list, status.Replica{Role: v1alpha1.RoleLearner, State: status.Missing})
	}
	return list
}

// roleOf is a member's role, as people are told it.
func roleOf(m *v1alpha1.Member) string {
	if m.Witness && m.Role == v1alpha1.RoleVoter {
		return status.Witness
	}
	return m.Role
}

func replicaOf(m v1alpha1.Member) status.Replica {
	r := status.Replica{ID: m.Replica, Pod: m.Pod, Node: m.Node, Role: roleOf(&m), Witness: m.Witness, State: status.Offline}
	if m.Lost {
		r.State = status.Lost
	}
	return r
}
