package replication

import (
	"context"
	"errors"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// Scrubs of a group of several: all content is read from the disk and compared with its seals, slowly, again and again.
const (
	scrubRate  = 16 << 20         // bytes a second
	scrubFirst = 10 * time.Minute // after the start
	scrubEvery = 24 * time.Hour   // from the end of one to the start of the next
)

// scrubber scrubs until Close.
func (g *Group) scrubber() {
	p := g.peers
	wait := scrubFirst
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(wait):
		}
		_, err := g.Scrub(p.ctx, scrubRate)
		if wait = scrubEvery; err != nil {
			wait = scrubFirst
		}
		if err != nil && p.ctx.Err() == nil && !errors.Is(err, errNotHere) {
			g.cfg.Logger.Error("the scrub found bad content and no copy of it, or ended early", "err", err)
		}
	}
}

// Scrubbed is what a scrub did.
type Scrubbed struct {
	Bytes  int64 `json:"bytes"`  // read
	Bad    int64 `json:"bad"`    // blocks
	Healed int64 `json:"healed"` // of these, with content from a peer
}

// Scrub reads all content of this replica from the disk, at most rate bytes a second (0: as fast as it can), compares it with its seals and
// heals from a peer what does not fit. Where nobody has a good copy, it goes on, and says so at the end.
func (g *Group) Scrub(ctx context.Context, rate int64) (Scrubbed, error) {
	r := Scrubbed{}
	if g.peers == nil {
		return r, errors.New("a volume with one replica is not scrubbed while it is served; remora check reads it")
	}
	ctx, done, err := g.use(ctx)
	if err != nil {
		return r, err
	}
	defer done()
	s := g.Store()
	before := s.Counts()
	var left error
	_, err = s.Scrub(ctx, nil, rate, func(w store.Want) error {
		bad := w.Bytes() / record.BlockSize
		r.Bad += bad
		if err := g.fetchWithin(ctx, s, w); err != nil {
			left = errors.Join(left, err)
			return ctx.Err()
		}
		r.Healed += bad
		return nil
	})
	r.Bytes = s.Counts().ScrubbedBytes - before.ScrubbedBytes
	if r.Healed > 0 && err == nil { // it is healed when a power cut does not bring back what was there
		err = g.checkpointNow(ctx)
	}
	return r, errors.Join(err, left)
}
