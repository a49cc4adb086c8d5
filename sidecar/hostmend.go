package sidecar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
)

// What becomes of a replica of a group of several that has stopped, or cannot be opened:
//
//   - Its metadata is damaged, its journal is not: it stays the member that it is, and the next process that opens it has its state replaced
//     by a peer's (package replication, replace.go).
//   - Its journal or its superblock is damaged: it has forgotten what it voted for and acknowledged, and is given up. The object calls it
//     lost, and whoever serves the node makes a new, empty one, with another ID, which is filled and takes its place. Never where a majority
//     of disks would not be left: then it stays Damaged, and a person decides (docs/replication.md). Its directory stays.
//   - Anything else (the disk fails, a bug): the process ends, and the next one tries again.

const (
	// endAfter is how long a keeper goes on beside a replica that has stopped, and endPodAfter how long a pod's sidecar does: to end costs
	// the pod's own volumes a pause.
	endAfter    = 2 * time.Second
	endPodAfter = time.Minute
	// giveUpApart is the least time between two replicas of a volume that are given up here; it doubles.
	giveUpApart = 30 * time.Second
	giveUpMost  = time.Hour
)

// givenUp counts the replicas of a volume that were given up here.
type givenUp struct {
	n    int
	last time.Time
}

// due tells whether another may be.
func (g givenUp) due() bool {
	return g.n == 0 || time.Since(g.last) > min(giveUpApart<<min(g.n-1, 10), giveUpMost)
}

// mend does what can be done about a member here that is not served, and returns why it is not.
func (h *host) mend(ctx context.Context, o *v1alpha1.Volume, r *hosted, why error) error {
	if damaged(why) {
		gone, err := h.giveUp(ctx, o, r.id.String(), why)
		if !gone || err != nil {
			return errors.Join(why, err)
		}
		h.mu.Lock()
		delete(h.hosted, r.id)
		h.mu.Unlock()
		h.work.Go(func() {
			if err := r.close(); err != nil {
				h.cfg.Logger.Warn("a replica that was given up did not close well", "volume", r.volume, "replica", r.id.String(), "err", err)
			}
		})
		if h.owns(o.Name) && r.open() != nil { // the file system is open on it
			h.end(fmt.Errorf("the volume's replica here was given up, and a new one takes its place: %w", why))
		}
		return nil
	}
	if r.ended() {
		h.endSoon(r, why)
	}
	return why
}

// giveUp says in the object that a member here is lost, if the volume can spare it.
func (h *host) giveUp(ctx context.Context, o *v1alpha1.Volume, replica string, why error) (bool, error) {
	h.mu.Lock()
	due := h.given[o.Name].due()
	h.mu.Unlock()
	if !due || !o.CanSpare(replica) {
		return false, nil
	}
	changed, err := h.modify(ctx, o.Name, func(o *v1alpha1.Volume) error {
		if m := o.Member(replica); m == nil || m.Lost || m.Node != h.cfg.Node || !o.CanSpare(replica) {
			return authority.ErrUnchanged
		}
		o.GiveUp(replica)
		return nil
	})
	if err != nil {
		return false, err
	}
	*o = changed
	if m := o.Member(replica); m != nil && !m.Lost {
		return false, nil
	}
	h.mu.Lock()
	g := h.given[o.Name]
	h.given[o.Name] = givenUp{g.n + 1, time.Now()}
	h.mu.Unlock()
	h.cfg.Logger.Error("a replica here is damaged and has no vote any more; it is given up, and a new one is filled by the others; its directory stays",
		"volume", o.Name, "replica", replica, "err", why)
	return true, nil
}

// ended tells that the replica has stopped, or will not be opened again by this process.
func (r *hosted) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.group != nil || errors.Is(r.err, errOnlyOnce)
}

// endSoon ends the process if a replica stays stopped: at once for the pod's own, without which nothing goes on.
func (h *host) endSoon(r *hosted, why error) {
	limit := endPodAfter
	switch {
	case h.owns(r.volume):
		limit = 0
	case h.cfg.Keeper:
		limit = endAfter
	}
	r.mu.Lock()
	if r.stopped.IsZero() {
		r.stopped = time.Now()
	}
	since := r.stopped
	r.mu.Unlock()
	if time.Since(since) >= limit {
		h.end(fmt.Errorf("replica %s of volume %s has stopped; another process opens it: %w", r.id, r.volume, why))
	}
}

// end has the process end, for the first reason of any.
func (h *host) end(why error) {
	select {
	case h.ended <- why:
	default:
	}
}

// mendDisk gives up the members in a disk directory of ours that is damaged.
func (h *host) mendDisk(ctx context.Context, o *v1alpha1.Volume, m *v1alpha1.Member) error {
	why := h.disks.damaged(m.Disk)
	if why == nil || m.Lost {
		return nil
	}
	if gone, err := h.giveUp(ctx, o, m.Replica, why); !gone || err != nil {
		return errors.Join(why, err)
	}
	return nil
}

// hostDisk is the disk directory in which replicas of other pods' volumes are kept: the first that is not damaged.
func (h *host) hostDisk() string {
	for n := 0; ; n++ {
		if name := fmt.Sprintf("disk-%d", n); h.disks.damaged(name) == nil {
			return name
		}
	}
}

// givenUpCounts are how many replicas were given up here, by volume.
func (h *host) givenUpCounts() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	counts := map[string]int{}
	for volume, g := range h.given {
		counts[volume] = g.n
	}
	return counts
}
