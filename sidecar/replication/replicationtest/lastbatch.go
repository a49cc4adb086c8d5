package replicationtest

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// LastBatches is an exploration of the one kind of damage that nobody can tell from a crash: rot inside the very last batch of the
// journal, which was synced, acknowledged and applied, and of which no later frame bears witness (DESIGN 6). The log ends before it
// then, and below what was applied. The volume must be refused, or be a state of the history that has everything before that batch,
// and its content must be whole but for the files to which the lost operations had written.
type LastBatches struct {
	Seed      uint64
	Batches   int // in the history; 0 means 12
	StopEarly bool
}

// batches is a running exploration.
type batches struct {
	LastBatches
	h      *History
	models []*model // before the batch, and after each of its operations
	found  *Found
	rng    *rand.Rand
}

// Run explores.
func (l LastBatches) Run(t testing.TB) *Found {
	if l.Batches == 0 {
		l.Batches = 12
	}
	fs := NewDisk(t, l.Seed)
	tuning := Small
	tuning.MaxDelay = time.Hour // only an fsync ends a batch
	b := &batches{LastBatches: l, found: &Found{Histories: 1}, rng: rand.New(rand.NewPCG(l.Seed, 17)),
		h: newHistory(t, rand.New(rand.NewPCG(l.Seed, 0)), fs, "node", tuning)}
	defer b.h.Stop()
	for range l.Batches {
		b.batch()
		_, err := b.h.group.Recover(t.Context()) // there is nothing to recover: it waits until all is applied
		require.NoError(t, err)
		img := fs.Image(b.rng, faultfs.Killed, nil)
		for range 4 {
			b.rot(img.Image(b.rng, faultfs.Killed, nil))
		}
		if l.StopEarly && len(b.found.Violations) > 0 {
			break
		}
	}
	b.found.Nonces = b.h.Nonces()
	return b.found
}

// batch does operations up to an fsync, or some more that nobody waits for. If they came to nothing, the batch before is still the last.
func (b *batches) batch() {
	before := b.h.model.clone()
	later := []*model{}
	for range 1 + b.rng.IntN(12) {
		require.NoError(b.h.t, b.h.TryStep())
		later = append(later, b.h.model.clone())
		if b.h.acknowledged {
			break
		}
	}
	if len(b.models) == 0 || slices.ContainsFunc(later, func(m *model) bool { return m.String() != before.String() }) {
		b.models = []*model{before}
	}
	b.models = append(b.models, later...)
}

// rot turns one bit of the last batch over, and recovers.
func (b *batches) rot(fs *faultfs.FS) {
	name, off, err := b.h.journalByte(fs, b.rng, func(s journal.Summary) (from, to journal.LSN) { return max(s.SyncedEnd, s.Start), s.End })
	if err == nil && name == "" {
		return // a checkpoint came behind it, and bears witness
	}
	require.NoError(b.h.t, err)
	require.NoError(b.h.t, fs.Flip(name, off, uint(b.rng.IntN(8))))
	h := &History{Machine: &Machine{t: b.h.t, fs: fs, root: "node", rng: b.rng, replica: b.h.replica, key: b.h.key, tuning: b.h.tuning,
		ledger: b.h.ledger}}
	var got string
	var unreadable map[string]bool
	err = h.try(func(h *History) {
		h.Start(false)
		got, unreadable = describeFS(h.t, h.vol)
	})
	h.Stop()
	b.found.Points++
	at := fmt.Sprintf("%s at %d", name, off)
	switch {
	case err == nil:
		b.found.kind(b.judge(at, got, unreadable), 1)
	case strings.Contains(err.Error(), store.ErrDamaged.Error()), strings.Contains(err.Error(), cachefs.ErrNotFormatted.Error()):
		b.found.kind("refused", 1)
	default:
		b.violation(at, brief(err))
	}
}

// judge looks for the state that a volume has. Of files that are EIO their size alone is known, so several may fit.
func (b *batches) judge(at, got string, unreadable map[string]bool) string {
	last, wrong := len(b.models)-1, "it has no state of the history since the fsync before"
	for k := last; k >= 0; k-- {
		if b.models[k].without(unreadable) != got {
			continue
		}
		spoilt := b.spoilt(k, unreadable)
		switch {
		case spoilt != "":
			wrong = fmt.Sprintf("at most %d operations of %d are lost, and none of them wrote to %s, which is EIO", last-k, last, spoilt)
		case k == last:
			return "everything is there"
		case len(unreadable) > 0:
			return "a prefix, without the content of files that lost operations wrote to"
		default:
			return "a prefix"
		}
	}
	b.violation(at, wrong)
	return "wrong"
}

func (b *batches) violation(at, what string) {
	b.found.Violations = append(b.found.Violations, fmt.Sprintf("seed %d: a bit of %s was turned over: %s", b.Seed, at, what))
}

// spoilt is an unreadable file of state k to which nothing wrote until it was removed, or at all; "" if there is none.
func (b *batches) spoilt(k int, unreadable map[string]bool) string {
	for path := range unreadable {
		if !b.written(b.models[k].nodes[path], b.models[k+1:]) {
			return path
		}
	}
	return ""
}

// written tells whether an operation between a file and the later states wrote to it.
func (b *batches) written(n *modelNode, later []*model) bool {
	for _, m := range later {
		for _, o := range m.nodes {
			if o.id == n.id && o.changes != n.changes {
				return true
			}
		}
	}
	return false
}

// journalByte picks a byte of the journal between two positions that pick chooses; no name if there is none.
func (h *History) journalByte(fs disk.FS, rng *rand.Rand, pick func(journal.Summary) (from, to journal.LSN)) (name string, off int64, err error) {
	copies, err := diskdir.InspectSuper(fs, h.DiskDir())
	if err != nil {
		return "", 0, err
	}
	super, err := copies.Disk()
	if err != nil {
		return "", 0, err
	}
	id, err := super.Identity()
	if err != nil {
		return "", 0, err
	}
	dir := filepath.Join(h.DiskDir(), "journal")
	sum, err := journal.Scan(journal.Options{FS: fs, Dir: dir, DiskID: id, SegmentBytes: super.SegmentBytes},
		func(journal.Frame) error { return nil })
	if err != nil || sum.Segments == 0 {
		return "", 0, err
	}
	from, to := pick(sum)
	if to <= from {
		return "", 0, nil
	}
	at := int64(from) + rng.Int64N(int64(to-from))
	return filepath.Join(dir, fmt.Sprintf("%016x.seg", at/super.SegmentBytes)), at % super.SegmentBytes, nil
}
