package node

import (
	"context"
	"time"

	"github.com/remora-storage/remora/node/kube"
)

// Events are written off the path; one that says what was said a while ago is not written again.
const (
	maxEvents  = 256
	eventApart = 5 * time.Minute
)

// tell has an event written. It never waits: where the API server is slow or away, events are dropped and counted.
func (n *node) tell(id podID, warning bool, reason, message string) {
	select {
	case n.events <- kube.Event{Namespace: id.Namespace, Pod: id.Name, UID: id.UID, Warning: warning, Reason: reason, Message: message}:
	default:
		n.metrics.eventsDropped.Inc()
	}
}

// tellAll writes events until ctx ends.
func (n *node) tellAll(ctx context.Context) {
	said := map[kube.Event]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-n.events:
			for old, when := range said {
				if time.Since(when) > eventApart {
					delete(said, old)
				}
			}
			if _, again := said[e]; again {
				continue
			}
			if err := n.cfg.API.Record(ctx, n.cfg.Node, e); err != nil {
				n.metrics.eventsDropped.Inc()
				n.cfg.Logger.Warn("cannot write an event", "reason", e.Reason, "pod", e.Pod, "err", err)
				continue
			}
			said[e] = time.Now()
		}
	}
}
