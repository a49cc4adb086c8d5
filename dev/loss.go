package dev

import (
	"cmp"
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

// Loss is a volume that goes on with what one replica has.
type Loss struct {
	Volume   string `json:"volume"`
	Survivor string `json:"survivor"` // replica
	Node     string `json:"node"`
	Applied  uint64 `json:"applied"` // last log position in its state
}

// acceptLoss lets a volume that has lost the majority of its disks go on with what one of the others has. What was acknowledged and is on
// none of them is gone.
func (s *supervisor) acceptLoss(ctx context.Context, volume string) (Loss, error) {
	s.failing.Lock()
	defer s.failing.Unlock()
	o, err := s.volume(ctx, volume)
	if err != nil {
		return Loss{}, err
	}
	lost := o.MajorityLost()
	if !lost && !s.awaitStuck(ctx, &o) {
		return Loss{}, fmt.Errorf("volume %s has not lost the majority of its disks (%s): there is nothing to accept, and nothing was changed", volume, describe(&o))
	}
	best, loss, err := s.awaitSurvivor(ctx, &o)
	if err != nil {
		return Loss{}, err
	}
	_, err = authority.Modify(ctx, s.auth(o.Namespace), o.Name, func(o *v1alpha1.Volume) error {
		m := o.Member(best)
		if m == nil || lost && !o.MajorityLost() {
			return fmt.Errorf("volume %s has changed meanwhile; look at `remora status` and try again", volume)
		}
		survivor := *m
		survivor.Role, survivor.Filled = v1alpha1.RoleVoter, true
		o.Members, o.Survivor, o.ConfIndex = []v1alpha1.Member{survivor}, best, 0 // its log may end before what was told last
		return nil
	})
	if err != nil {
		return Loss{}, err
	}
	s.cfg.Log.Warn("the loss of disks is accepted: the volume goes on with what one replica has", "volume", volume, "replica", best, "node", loss.Node)
	return loss, s.reopen(ctx, &o, loss.Node)
}

// answerLimit is how long those who have what is left may take to answer: they may be just starting.
const answerLimit = 15 * time.Second

// awaitStuck tells whether a volume can decide nothing although its object names enough disks: who was lost may have been a voter before the
// object heard of it, as in the middle of a change of members. Somebody who knows a leader, or does not answer, speaks against it.
func (s *supervisor) awaitStuck(ctx context.Context, o *v1alpha1.Volume) bool {
	for end := time.Now().Add(answerLimit); ctx.Err() == nil; {
		if !stuck(o, s.hosted(ctx)) {
			return false
		}
		if time.Now().After(end) {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return false
}

// stuck is awaitStuck at one moment.
func stuck(o *v1alpha1.Volume, hosted map[string]status.Hosted) bool {
	if o.Phase != v1alpha1.VolumeReady || !o.Several() {
		return false
	}
	for i := range o.Members {
		m := &o.Members[i]
		if m.Lost {
			continue
		}
		if h, ok := hosted[m.Replica]; !ok || h.Error != "" || h.Leader != "" {
			return false
		}
	}
	return len(o.Members) > 0
}

func (s *supervisor) awaitSurvivor(ctx context.Context, o *v1alpha1.Volume) (best string, loss Loss, err error) {
	for end := time.Now().Add(answerLimit); ; {
		if best, loss, err = s.survivor(ctx, o); err == nil || errors.Is(err, errNothingLeft) || time.Now().After(end) {
			return best, loss, err
		}
		select {
		case <-ctx.Done():
			return best, loss, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var errNothingLeft = errors.New("nothing is left to go on with")

// survivor chooses the replica with the longest log of those whose disks are there. All of them must answer.
func (s *supervisor) survivor(ctx context.Context, o *v1alpha1.Volume) (best string, loss Loss, err error) {
	return survivorOf(o, s.hosted(ctx))
}

// survivorOf is survivor by what the processes say of the replicas that they host.
func survivorOf(o *v1alpha1.Volume, hosted map[string]status.Hosted) (best string, loss Loss, err error) {
	var chosen status.Hosted
	for i := range o.Members {
		m := &o.Members[i]
		if !m.Votes() || m.Lost || m.Witness {
			continue
		}
		h, ok := hosted[m.Replica]
		if !ok || h.Error != "" {
			return "", loss, fmt.Errorf("replica %s on node %s does not answer, and may be the one that has most: mend that first (%s)", m.Replica, m.Node, cmp.Or(h.Error, "nobody serves it"))
		}
		if best == "" || hasMore(&h, &chosen) {
			best, chosen, loss = m.Replica, h, Loss{Volume: o.Name, Survivor: m.Replica, Node: m.Node, Applied: h.Applied}
		}
	}
	if best == "" {
		return "", loss, fmt.Errorf("every disk of volume %s is lost (%s): %w", o.Name, describe(o), errNothingLeft)
	}
	return best, loss, nil
}

// hasMore tells whether one replica has more than another: a state, if the other one's was being replaced by that of a peer that is lost; and
// the log that Raft would have led. What was acknowledged is in it, also if this replica has not heard that it was.
func hasMore(a, b *status.Hosted) bool {
	stateOf := func(h *status.Hosted) int {
		if h.State == status.Rebuilding {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(stateOf(a), stateOf(b)), cmp.Compare(a.LastTerm, b.LastTerm), cmp.Compare(a.Last, b.Last)) > 0
}

// reopen starts the processes anew that must see the volume with other eyes: the one that has the survivor, and the volume's pod.
func (s *supervisor) reopen(ctx context.Context, o *v1alpha1.Volume, node string) error {
	for _, k := range s.keepers.list() {
		if k.at == (place{node, o.Namespace}) {
			if _, err := k.renew(ctx, ""); err != nil {
				return err
			}
		}
	}
	var errs []error
	for _, p := range s.pods() {
		want := p.wanted()
		owns := slices.ContainsFunc(volumeNames(want), func(name string) bool { return name == o.Name })
		if want.namespace == o.Namespace && p.instance() != nil && (owns || want.node == node) {
			errs = append(errs, p.replace(ctx))
		}
	}
	return errors.Join(errs...)
}

func volumeNames(p *podSpec) (names []string) {
	for _, v := range p.spec.Volumes {
		names = append(names, p.object(v.Name))
	}
	return names
}

// volume finds a Volume as it is called in dev: by its name, or <namespace>.<name> outside namespace "default".
func (s *supervisor) volume(ctx context.Context, called string) (v1alpha1.Volume, error) {
	var known []string
	for _, o := range s.objects(ctx) {
		if title(o.Namespace, o.Name) == called {
			return o, nil
		}
		known = append(known, title(o.Namespace, o.Name))
	}
	return v1alpha1.Volume{}, fmt.Errorf("%w %q; there are: %s", errUnknownVolume, called, strings.Join(known, ", "))
}

var errUnknownVolume = errors.New("unknown volume")

func describe(o *v1alpha1.Volume) string {
	var list []string
	for _, m := range o.Members {
		text := m.Role + " on " + m.Node
		if m.Witness {
			text = "witness (" + m.Role + ") on " + m.Node
		}
		if m.Lost {
			text += ", lost"
		}
		list = append(list, text)
	}
	return strings.Join(list, "; ")
}
