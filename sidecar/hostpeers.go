package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// network returns what carries frames, and begins to listen when it is needed for the first time.
func (h *host) network() (network, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.net != nil {
		return h.net, nil
	}
	if h.listen == nil {
		return nil, errors.New("this sidecar has no certificate (--identity) and cannot talk to the volume's other replicas")
	}
	var err error
	h.net, err = h.listen(h)
	return h.net, err
}

// peer is who is at the other end of a connection, as its certificate says.
type peer struct {
	tenant, pod string
	volumes     []string
}

// authorize says whether a peer may speak as replica from of a group to our replica to. The object decides: the peer's certificate names
// the volume, and the peer is who serves that member. An object that says otherwise is read again first, since it may have changed.
func (h *host) authorize(p peer, group, from, to uint64) error {
	if p.tenant != h.cfg.Namespace {
		return fmt.Errorf("tenant %q has no business with tenant %q", p.tenant, h.cfg.Namespace)
	}
	err := h.allowed(p, diskdir.ID(group), diskdir.ID(from), diskdir.ID(to))
	if err == nil {
		return nil
	}
	h.mu.Lock()
	name, known := h.groups[diskdir.ID(group)]
	h.mu.Unlock()
	if !known {
		h.look()
		return err
	}
	o, getErr := h.auth.Get(h.ctx, name)
	if getErr != nil {
		return err
	}
	h.mu.Lock()
	h.learnLocked(o)
	h.mu.Unlock()
	return h.allowed(p, diskdir.ID(group), diskdir.ID(from), diskdir.ID(to))
}

func (h *host) allowed(p peer, group, from, to diskdir.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, ok := h.groups[group]
	if !ok {
		return fmt.Errorf("group %s is of no volume of tenant %s", group, h.cfg.Namespace)
	}
	if !slices.Contains(p.volumes, name) {
		return fmt.Errorf("the certificate of %s/%s does not name volume %s", p.tenant, p.pod, name)
	}
	switch m, known := h.byID[name][from]; {
	case !known:
		return fmt.Errorf("replica %s is not a member of volume %s", from, name)
	case m.Lost:
		return fmt.Errorf("replica %s of volume %s was given up as lost", from, name)
	case m.Pod != p.pod:
		return fmt.Errorf("replica %s of volume %s is served by %q, not by %q", from, name, m.Pod, p.pod)
	}
	if _, known := h.byID[name][to]; !known {
		return fmt.Errorf("replica %s is not a member of volume %s", to, name)
	}
	return nil
}

// members are a volume's, as known now. While a survivor goes on alone there is nobody else.
func (h *host) members(volume string) []v1alpha1.Member {
	o, ok := h.object(volume)
	if !ok {
		return nil
	}
	if m := o.Member(o.Survivor); m != nil {
		return []v1alpha1.Member{*m}
	}
	return o.Members
}

// changed writes into the object what the leader's log says about the members, unless it knows something newer.
func (h *host) changed(ctx context.Context, volume string, index uint64, voters, learners []uint64) error {
	votes, learns := names(voters), names(learners)
	_, err := h.modify(ctx, volume, func(o *v1alpha1.Volume) error {
		if index <= o.ConfIndex {
			return authority.ErrUnchanged
		}
		o.ConfIndex = index
		o.Members = slices.DeleteFunc(o.Members, func(m v1alpha1.Member) bool {
			return m.Votes() && !slices.Contains(votes, m.Replica) && !slices.Contains(learns, m.Replica)
		})
		for i := range o.Members {
			switch m := &o.Members[i]; {
			case m.Role == v1alpha1.RoleLearner && slices.Contains(votes, m.Replica):
				m.Role = v1alpha1.RoleVoter
			case m.Role == v1alpha1.RoleVoter && slices.Contains(learns, m.Replica): // a witness, beside one copy
				m.Role = v1alpha1.RoleLearner
			}
		}
		return nil
	})
	return err
}

func names(ids []uint64) []string {
	var list []string
	for _, id := range ids {
		list = append(list, diskdir.ID(id).String())
	}
	return list
}
