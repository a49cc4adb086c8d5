package dev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/status"
)

// Another number of copies for a volume that exists:
//
//   - More: the object says how many and on which nodes, in one change; empty nodes are made where there are too few. Whoever serves these
//     nodes makes replicas, which are filled and become voters one by one. The only replica of a volume of one copy becomes the first voter of
//     a group: its sidecar sees it in the object and starts again, which is a pause for programs.
//   - Fewer: those that stay are named first: the owner's, and others that are in sync. The others leave, all in one change of members.
//
// A volume that has had several copies keeps the protocol of a group when one is left: its replica has votes to remember.

// Resized is what a volume is to have.
type Resized struct {
	Volume   string   `json:"volume"`
	Replicas int      `json:"replicas"`
	Before   int      `json:"before"`
	Nodes    []string `json:"nodes"`
}

func (s *supervisor) resize(ctx context.Context, volume string, n int) (Resized, error) {
	s.failing.Lock()
	defer s.failing.Unlock()
	o, err := s.volume(ctx, volume)
	if err != nil {
		return Resized{}, err
	}
	r := Resized{Volume: volume, Replicas: n, Before: o.Copies()}
	if n != 1 && n != 3 && n != 5 {
		return r, fmt.Errorf("%d replicas: allowed: 1, 3, 5: an even number survives no more losses than one less", n)
	}
	if o.Witness != "" {
		return r, fmt.Errorf("volume %s has two copies and a witness, and this number cannot be changed: nothing was; make a volume of class replicated, and copy the files", volume)
	}
	if err := mayResize(&o); err != nil {
		return r, fmt.Errorf("volume %s: %w; nothing was changed", volume, err)
	}
	if n == r.Before {
		return r, fmt.Errorf("volume %s has %d replicas already; nothing was changed", volume, n)
	}
	var nodes, keep []string
	if n > r.Before {
		nodes, err = s.moreNodes(ctx, &o, n)
	} else {
		nodes, keep, err = s.awaitFewer(ctx, &o, n)
	}
	if err != nil {
		return r, err
	}
	_, err = authority.Modify(ctx, s.auth(o.Namespace), o.Name, func(now *v1alpha1.Volume) error {
		if err := mayResize(now); err != nil {
			return err
		}
		if now.Copies() != r.Before || !slices.Equal(now.Nodes, o.Nodes) {
			return fmt.Errorf("volume %s has changed meanwhile; look at `remora status` and try again", volume)
		}
		if !now.Several() {
			now.OwnerNode = now.Members[0].Node
		}
		now.Replicas, now.Nodes, now.Grouped = n, nodes, true
		now.Members = slices.DeleteFunc(now.Members, func(m v1alpha1.Member) bool {
			return keep != nil && m.Role == v1alpha1.RoleLearner && !slices.Contains(keep, m.Replica)
		})
		for i := range now.Members {
			if m := &now.Members[i]; keep != nil && !slices.Contains(keep, m.Replica) {
				m.Role = v1alpha1.RoleLeaving
			}
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	r.Nodes = nodes
	s.cfg.Log.Info("a volume gets another number of replicas", "volume", volume, "replicas", n, "before", r.Before, "nodes", nodes)
	s.attendSoon()
	return r, nil
}

func mayResize(o *v1alpha1.Volume) error {
	switch {
	case o.Phase != v1alpha1.VolumeReady || len(o.Members) == 0:
		return errors.New("it has not been mounted yet: its number of copies is what its class says")
	case o.MajorityLost() || o.Survivor != "":
		return fmt.Errorf("it has lost the majority of its disks (%s): see to that first", describe(o))
	}
	return nil
}

// moreNodes are where n replicas shall be: where they are, and where the fewest of others are.
func (s *supervisor) moreNodes(ctx context.Context, o *v1alpha1.Volume, n int) ([]string, error) {
	if err := mayResize(o); err != nil {
		return nil, fmt.Errorf("volume %s: %w", o.Name, err)
	}
	if err := s.ensureNodes(n); err != nil {
		return nil, err
	}
	have := slices.Clone(o.Nodes)
	if !o.Several() {
		have = []string{o.Members[0].Node}
	}
	all, err := s.choose(ctx, have[0], len(s.nodes()))
	if err != nil {
		return nil, err
	}
	for _, node := range all {
		if len(have) < n && !slices.Contains(have, node) {
			have = append(have, node)
		}
	}
	if len(have) < n {
		return nil, fmt.Errorf("%d copies need %d nodes that have not failed, and there are %v", n, n, s.nodes())
	}
	return have, nil
}

// ensureNodes makes empty nodes where there are too few.
func (s *supervisor) ensureNodes(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.placed.Nodes) >= n {
		return nil
	}
	s.placed.grow(n)
	return s.placed.save(s.layout.placement())
}

// awaitFewer is fewerNodes, for as long as somebody may be just catching up.
func (s *supervisor) awaitFewer(ctx context.Context, o *v1alpha1.Volume, n int) (nodes, keep []string, err error) {
	for end := time.Now().Add(answerLimit); ; {
		if nodes, keep, err = s.fewerNodes(ctx, o, n); err == nil || time.Now().After(end) {
			return nodes, keep, err
		}
		select {
		case <-ctx.Done():
			return nodes, keep, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fewerNodes are where the n replicas are that stay, and which: the owner's first. All of them must be voters that are in sync.
func (s *supervisor) fewerNodes(ctx context.Context, o *v1alpha1.Volume, n int) (nodes, keep []string, err error) {
	if err := mayResize(o); err != nil {
		return nil, nil, fmt.Errorf("volume %s: %w", o.Name, err)
	}
	hosted := s.hosted(ctx)
	members := slices.Clone(o.Members)
	slices.SortStableFunc(members, func(a, b v1alpha1.Member) int { return rank(o, &a) - rank(o, &b) })
	var not []string
	for i := range members {
		m := &members[i]
		switch {
		case len(keep) == n:
		case m.Role == v1alpha1.RoleVoter && !m.Lost && hosted[m.Replica].State == status.InSync:
			nodes, keep = append(nodes, m.Node), append(keep, m.Replica)
		case m.Node == o.OwnerNode && !m.Lost:
			return nil, nil, fmt.Errorf("volume %s: the replica on %s, where its pod is, is no voter in sync yet (%s): wait, and try again; nothing was changed", o.Name, m.Node, m.Role)
		default:
			not = append(not, m.Node)
		}
	}
	if len(keep) < n {
		return nil, nil, fmt.Errorf("volume %s: only %d replicas are voters in sync (not: %s): wait, and try again; nothing was changed", o.Name, len(keep), strings.Join(not, ", "))
	}
	return nodes, keep, nil
}

// rank puts the owner's replica before the others.
func rank(o *v1alpha1.Volume, m *v1alpha1.Member) int {
	if m.Node == o.OwnerNode {
		return 0
	}
	return 1
}
