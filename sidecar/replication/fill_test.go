package replication_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/check"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// TestVerifyTrio: the digests of all replicas are compared at one index, while somebody writes, too.
func TestVerifyTrio(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	n := c.nodes[1]
	n.own(true)
	n.file("large", 3<<20)
	verify := func() {
		v, err := n.group.Verify(t.Context(), false)
		require.NoError(t, err)
		require.True(t, v.Same, "%+v", v)
		require.Len(t, v.Replicas, 3)
		require.Len(t, v.Replicas[0].Digest, 64)
	}
	verify()
	a, err := n.fs1.Create(&cachefs.Caller{}, meta.Root, "busy", cachefs.Node{Mode: syscall.S_IFREG | 0o600})
	require.NoError(t, err)
	ino := a.Ino
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if _, err := n.fs1.Write(&cachefs.Caller{}, ino, 0, []byte{byte(i)}, false); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	quiet := sync.OnceFunc(func() {
		close(stop)
		<-done
	})
	defer quiet()
	for range 3 {
		v, err := n.group.Verify(t.Context(), false)
		require.NoError(t, err)
		digest := ""
		for _, r := range v.Replicas { // a busy machine may be past every index that is tried; another answer is wrong
			if r.Err != "" {
				require.Contains(t, r.Err, "the index")
				continue
			}
			require.Contains(t, []string{"", r.Digest}, digest, "%+v", v)
			digest = r.Digest
		}
	}
	quiet()
	verify()
	c.lose(3)
	v, err := n.group.Verify(t.Context(), false)
	require.NoError(t, err)
	require.False(t, v.Same, "one has not answered")
}

// rot turns a bit over in so many blocks of a node's arena that are in use.
func (n *node) rot(most int) (count int) {
	t := n.trio.t
	path := diskdir.ArenaPath("disk-0", diskdir.ID(n.id))
	f, err := n.fs.OpenReadWrite(path, disk.Category)
	require.NoError(t, err, filepath.Dir(path))
	defer f.Close()
	b := make([]byte, record.BlockSize)
	for off := int64(0); count < most; off += 7 * record.BlockSize {
		if _, err := f.ReadAt(b, off); errors.Is(err, io.EOF) {
			break
		}
		if strings.Trim(string(b), "\x00") == "" {
			continue
		}
		b[100] ^= 4
		_, err = f.WriteAt(b[100:101], off+100)
		require.NoError(t, err)
		count++
	}
	require.NotZero(t, count)
	return count
}

// TestScrubTrio: bits that turn over in an arena are found by a scrub, and by reads, and healed from a peer; nobody else notices.
func TestScrubTrio(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	n := c.nodes[1]
	n.own(true)
	n.file("large", 3<<20)
	c.agree()
	bad := c.nodes[2].rot(20)
	s, err := c.nodes[2].group.Scrub(t.Context(), 0)
	require.NoError(t, err)
	require.EqualValues(t, bad, s.Bad)
	require.EqualValues(t, bad, s.Healed)
	require.GreaterOrEqual(t, s.Bytes, int64(3<<20))
	s, err = c.nodes[2].group.Scrub(t.Context(), 0)
	require.NoError(t, err)
	require.Zero(t, s.Bad)

	bad = c.nodes[3].rot(20)
	v, err := n.group.Verify(t.Context(), true)
	require.NoError(t, err)
	require.True(t, v.Same, "%+v", v)
	for _, r := range v.Replicas {
		require.NotNil(t, r.Scrubbed)
		require.GreaterOrEqual(t, r.Scrubbed.Bytes, int64(3<<20))
		if r.Replica == diskdir.ID(3).String() {
			require.EqualValues(t, bad, r.Scrubbed.Healed)
		}
	}

	bad = n.rot(20)
	n.check("large", 3<<20)
	require.EqualValues(t, bad, n.group.FillStatus().HealedBlocks)
	require.Zero(t, n.group.FillStatus().Unhealed)

	// Nobody has it: the scrub says so, and ends.
	c.nodes[2].stop()
	c.nodes[3].stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n.rot(1)
	s, err = n.group.Scrub(ctx, 0)
	require.Error(t, err)
	require.EqualValues(t, 1, s.Bad)
	require.Zero(t, s.Healed)
}

// TestCheckTrio: remora check finds nothing wrong with the replicas of a group that has stopped, and the same digest for all that are at the
// same index.
func TestCheckTrio(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	n := c.nodes[1]
	n.own(true)
	n.file("large", 3<<20)
	n.file("small", 100)
	c.agree()
	for _, x := range []uint64{3, 2, 1} {
		c.nodes[x].stop()
	}
	digests := map[record.Index]string{}
	for id := uint64(1); id <= 3; id++ {
		on := c.nodes[id].fs
		require.NoError(t, on.MkdirAll("keys", 0o700))
		f, err := on.Create("keys/v.key", disk.Category)
		require.NoError(t, err)
		_, err = f.Write([]byte(hex.EncodeToString(c.key)))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		r, err := check.Run(t.Context(), check.Config{FS: on, Dir: "disk-0", KeyDir: "keys"})
		require.NoError(t, err)
		require.Empty(t, r.Findings)
		require.Len(t, r.Replicas, 1)
		require.Len(t, r.Replicas[0].Digest, 64)
		if other := digests[r.Replicas[0].Index]; other != "" {
			require.Equal(t, other, r.Replicas[0].Digest)
		}
		digests[r.Replicas[0].Index] = r.Replicas[0].Digest
	}
}

// TestACopyWaitsForTheObject: a learner that the object calls filled, and that needs a copy of the state, which may have less, takes none before
// the object has that back: it could be made a voter meanwhile.
func TestACopyWaitsForTheObject(t *testing.T) {
	c := newTrio(t)
	c.log = 32 << 10
	for id := range uint64(3) {
		c.object = append(c.object, replication.Member{ID: id + 1, Role: replication.Voter})
	}
	for _, m := range c.object {
		c.add(m.ID, []uint64{1, 2, 3})
	}
	n := c.nodes[1]
	n.own(true)
	n.file("first", 300_000)
	c.mu.Lock()
	c.object = append(c.object, replication.Member{ID: 4, Role: replication.Learner})
	c.mu.Unlock()
	o := c.add(4, nil)
	require.Eventually(t, func() bool { return o.group.Filled() && !o.group.Unfilled() }, time.Minute, 5*time.Millisecond)
	says := func(filled bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.filled[4] = filled
	}
	says(true)
	o.stop()
	for i := range 40 {
		n.file(fmt.Sprintf("away-%d", i), 100_000)
	}
	o.start(nil)
	require.Eventually(t, func() bool { return o.group.Unfilled() }, time.Minute, time.Millisecond)
	require.False(t, o.group.Status().Replaced, "it has taken a copy although the object calls it filled")
	require.False(t, o.group.Filled())
	says(false)
	require.Eventually(t, func() bool { return o.group.Filled() && !o.group.Unfilled() }, time.Minute, 5*time.Millisecond)
	require.True(t, o.group.Status().Replaced, "the log was enough: this shows nothing")
	c.agree()
}
