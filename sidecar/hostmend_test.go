package sidecar

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// stop has the pretended replica of a host stop.
func (d *tenant) stop(h *host, err error) {
	p := h.hostedNow("data-db-0").open().(*pretended)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (d *tenant) ready() {
	d.change("data-db-0", func(o *v1alpha1.Volume) { o.Phase = v1alpha1.VolumeReady })
}

// TestADamagedReplicaIsGivenUp: a new one, with another ID, is made in its place, once, and the process goes on.
func TestADamagedReplicaIsGivenUp(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	d.ready()
	d.await("three that are served", func() bool { return b.hostedNow("data-db-0") != nil && c.hostedNow("data-db-0") != nil }, owner, b, c)
	old := d.object("data-db-0").Members
	d.stop(b, &journal.DamageError{File: "x.seg"})
	d.await("another replica", func() bool { return len(d.object("data-db-0").Members) == 4 }, owner, b, c)
	o := d.object("data-db-0")
	require.Equal(t, map[string]string{"a": "voter", "b": "leavinglearner", "c": "voter"}, roles(o))
	for _, m := range old {
		require.Equal(t, m.Node == "b", o.Member(m.Replica).Lost)
	}
	require.Equal(t, map[string]int{"data-db-0": 1}, b.givenUpCounts())
	require.Empty(t, b.ended)
}

// TestDamageWithoutAMajority: what nobody can spare is not given up, and keeps its vote.
func TestDamageWithoutAMajority(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	d.ready()
	d.await("three that are served", func() bool { return b.hostedNow("data-db-0") != nil && c.hostedNow("data-db-0") != nil }, owner, b, c)
	d.change("data-db-0", func(o *v1alpha1.Volume) {
		for i := range o.Members {
			if o.Members[i].Node == "c" {
				o.Members[i].Lost, o.Members[i].Role = true, v1alpha1.RoleLeaving
			}
		}
	})
	d.stop(b, fmt.Errorf("test: %w", store.ErrDamaged))
	for range 50 {
		b.poll(b.ctx)
	}
	require.Equal(t, map[string]string{"a": "voter", "b": "voter", "c": "leaving"}, roles(d.object("data-db-0")))
	require.Equal(t, "Damaged", b.report()[0].State)
	require.Empty(t, b.ended)
}

// TestADamagedDiskDirectory: replicas of others' volumes go to another directory beside it.
func TestADamagedDiskDirectory(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	d.ready()
	d.await("three that are served", func() bool { return b.hostedNow("data-db-0") != nil && c.hostedNow("data-db-0") != nil }, owner, b, c)
	d.end(b)
	super := filepath.Join(d.dir, "b", "disk-0", "superblock")
	require.NoError(t, os.WriteFile(super, make([]byte, 8192), 0o600))
	b = d.process("b", "keeper-b")
	d.await("another replica", func() bool { return len(d.object("data-db-0").Members) == 4 }, owner, b, c)
	o := d.object("data-db-0")
	require.Equal(t, "disk-1", o.Members[3].Disk)
	require.Equal(t, map[string]string{"a": "voter", "b": "leavinglearner", "c": "voter"}, roles(o))
}

// TestAStoppedReplicaEndsItsProcess: the next one opens it. So it is for one whose state will be replaced then.
func TestAStoppedReplicaEndsItsProcess(t *testing.T) {
	d := newTenant(t)
	owner, b, c := d.three()
	d.ready()
	d.await("three that are served", func() bool { return b.hostedNow("data-db-0") != nil && c.hostedNow("data-db-0") != nil }, owner, b, c)
	d.stop(owner, errors.New("the disk is given up"))
	d.await("the end of the owner's process", func() bool { return len(owner.ended) == 1 }, owner)
	d.stop(b, fmt.Errorf("%w: %w", replication.ErrReplace, store.ErrDamaged))
	b.poll(b.ctx)
	require.Empty(t, b.ended, "a keeper waits a little")
	b.hostedNow("data-db-0").stopped = time.Now().Add(-time.Hour)
	b.poll(b.ctx)
	require.Len(t, b.ended, 1)
	require.Len(t, d.object("data-db-0").Members, 3)
}

// TestWhatIsNoDamage: another version's, or another tenant's, is not to be replaced.
func TestWhatIsNoDamage(t *testing.T) {
	require.False(t, damaged(&diskdir.NotOursError{Sound: true}))
	require.True(t, damaged(&diskdir.NotOursError{}))
	require.False(t, damaged(&journal.MismatchError{}))
	require.False(t, damaged(fmt.Errorf("%w: %w", replication.ErrReplace, store.ErrDamaged)))
	require.False(t, damaged(nil))
}
