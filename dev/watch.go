package dev

import (
	"context"
	"io"
	"time"

	"github.com/remora-storage/remora/sidecar/session/holder"
)

// notify hears from the holder what the sidecar does.
func (i *instance) notify(e holder.Event) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if e.Kind == holder.Gone && i.serving[e.Volume] {
		i.unserved[e.Volume] = now
		if i.away.IsZero() {
			i.away = now
		}
	}
	if i.serving[e.Volume] = e.Kind == holder.Serving; i.serving[e.Volume] {
		delete(i.unserved, e.Volume)
	}
	for volume := range i.mounts {
		if !i.serving[volume] {
			return
		}
	}
	if i.process, i.died = true, 0; i.once {
		i.log.Info("served again", "pid", e.PID, "after", since(now, i.started), "away", since(now, i.away))
	}
	i.once, i.away = true, time.Time{}
}

func since(now, then time.Time) string { return now.Sub(then).Round(time.Millisecond).String() }

// watchEvery is how often the hang budget is looked at.
const watchEvery = 100 * time.Millisecond

// watch ends what nobody may wait for any longer, until ctx is done. Programs wait on a mount without a signal being able to end
// that, so the wait has a budget:
//
//   - A volume that was served and is not for the whole budget is aborted. The next sidecar that attaches gets a new mount. A volume
//     that was never served has no budget: the pod has not started, so nothing may wait there.
//   - A sidecar that has served and answers nothing for half of the budget is killed, so that the next one has the other half.
func (i *instance) watch(ctx context.Context) {
	budget := i.s.cfg.HangBudget
	if budget == 0 {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for asked := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if i.snapshot().leaving {
			return
		}
		for volume, waited := range i.overdue(budget) {
			i.giveUp(volume, waited)
		}
		if time.Since(asked) >= min(time.Second, budget/8) {
			i.askAlive(ctx)
			asked = time.Now()
		}
		h := i.snapshot()
		if silent := time.Since(h.answered); h.present != nil && h.process && silent > budget/2 {
			i.log.Error("the sidecar runs but does not answer; killing it, so that another one goes on", "pid", h.present.PID, "silent", silent.Round(time.Millisecond).String())
			h.present.Kill()
		}
	}
}

// overdue takes the volumes that were unserved for longer than the budget out of unserved.
func (i *instance) overdue(budget time.Duration) map[string]time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	over := map[string]time.Duration{}
	for volume, since := range i.unserved {
		if waited := time.Since(since); waited > budget {
			over[volume] = waited
			delete(i.unserved, volume)
		}
	}
	return over
}

// giveUp aborts a volume's connection.
func (i *instance) giveUp(volume string, waited time.Duration) {
	m := i.mounts[volume]
	if err := m.Abort(); err != nil {
		i.log.Error("cannot abort the connection", "volume", i.object(volume), "err", err)
		return
	}
	i.log.Error("nobody served the volume for longer than the hang budget: its connection is aborted. Programs that waited got ECONNABORTED, "+
		"and files that they have open there give ENOTCONN for good. The next sidecar that starts mounts it anew; restart the programs that "+
		"used it then. If none starts, mend what its log says and run: remora dev restart-pod "+i.title,
		"volume", i.object(volume), "mount", m.Target(), "unserved", waited.Round(time.Millisecond).String(),
		"budget", i.s.cfg.HangBudget.String(), "log", i.sink.Path)
}

// askAlive notes when the sidecar answers.
func (i *instance) askAlive(ctx context.Context) {
	pid := i.sidecarPID()
	if pid == 0 || i.s.ask(ctx, i.title, "/status", io.Discard) != nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.present != nil && i.present.PID == pid {
		i.answered = time.Now()
	}
}
