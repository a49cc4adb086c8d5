package replication_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication"
)

// letter is a frame as one replica sent it to another.
type letter struct {
	from, to uint64
	kind     uint8
	body     []byte
}

// TestMessagesThatAreNone: frames that a member sends and that are cut off, longer than they say, damaged, of a kind or with a kind of record
// that a newer version may have, or from somebody else than they say, are refused as a whole, whatever is behind the place; the group goes on.
func TestMessagesThatAreNone(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	var mu sync.Mutex
	var letters []letter
	c.mu.Lock()
	c.tap = func(l letter) {
		mu.Lock()
		defer mu.Unlock()
		if len(l.body) < 64<<10 && len(letters) < 1000 {
			letters = append(letters, l)
		}
	}
	c.mu.Unlock()
	n := c.nodes[1]
	n.own(true)
	n.file("before", 20_000)
	c.mu.Lock()
	c.tap = nil
	c.mu.Unlock()

	// All to a replica that is none of these: it would refuse what is meant for another, too, but later.
	refused := func(l letter, kind uint8, from uint64, body []byte, what string) {
		t.Helper()
		require.Error(t, c.nodes[l.to].group.Receive(kind, from, slices.Clone(body)), "a frame of %d bytes, kind %d: %s", len(l.body), l.kind, what)
	}
	records := 0
	for _, l := range letters {
		refused(l, 200, l.from, l.body, "of a kind that nobody knows")
		refused(l, l.kind, l.from, append(slices.Clone(l.body), 0), "one byte more")
		for cut := 0; cut < len(l.body); cut += 1 + len(l.body)/500 {
			refused(l, l.kind, l.from, l.body[:cut], "cut off")
		}
		if l.kind == replication.FrameRaft {
			refused(l, l.kind, l.from+100, l.body, "not from who it says")
			refused(l, l.kind, l.from, withEntry(t, l.body, 7), "an entry of a type that nobody knows")
			refused(l, l.kind, l.from, withEntry(t, l.body, -1), "an entry of a type that is none")
		}
		behind := behindNames(l)
		if behind == 0 || behind >= len(l.body) || records >= 20 { // no record
			continue
		}
		if l.body[behind+8+5] != byte(record.Change) || binary.LittleEndian.Uint32(l.body[behind+4:]) != 0 {
			continue // an Owner record is not sealed: what guards it on its way is the frame's checksum, and TLS
		}
		records++
		// Every block of content has a checksum of its own, which is looked at when it is read, and by the scrub.
		size, content := int(binary.LittleEndian.Uint32(l.body[behind:])), int(binary.LittleEndian.Uint32(l.body[behind+8+80:]))
		for at := behind + 8; at < behind+8+size-content; at++ {
			damaged := slices.Clone(l.body)
			damaged[at] ^= 1 << (at % 8)
			refused(l, l.kind, l.from, damaged, fmt.Sprintf("damaged at %d of a record at %d", at, behind))
		}
		long := slices.Clone(l.body)
		binary.LittleEndian.PutUint32(long[behind:], 1<<31)
		refused(l, l.kind, l.from, long, "a record of 2 GiB")
		many := slices.Clone(l.body)
		binary.LittleEndian.PutUint32(many[behind+4:], 1<<30)
		refused(l, l.kind, l.from, many, "a thousand million operations")
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		l := letter{2, 3, uint8(1 + random.UintN(3)), make([]byte, 4+random.IntN(300))}
		for i := range l.body {
			l.body[i] = byte(random.Uint32())
		}
		binary.LittleEndian.PutUint32(l.body, random.Uint32N(uint32(len(l.body)))) // a length that is possible
		if l.kind == replication.FrameAck && len(l.body) == 21 {
			l.body[0] = 2
		}
		refused(l, l.kind, l.from, l.body, "random bytes")
	}
	require.NotZero(t, records, "no frame had a record: this shows nothing")

	n.file("after", 20_000)
	c.agree()
	for _, n := range c.nodes {
		require.NoError(t, n.group.Status().Err)
	}
	require.Eventually(t, func() bool { return n.group.Status().Group.Leader != 0 }, time.Minute, time.Millisecond)
}

// withEntry is a message of Raft to which an entry without data is added, of some type.
func withEntry(t *testing.T, body []byte, of pb.EntryType) []byte {
	size := binary.LittleEndian.Uint32(body)
	var m pb.Message
	require.NoError(t, m.Unmarshal(body[4:4+size]))
	m.Entries = append(m.Entries, pb.Entry{Type: of})
	b, err := m.Marshal()
	require.NoError(t, err)
	return append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...), body[4+size:]...)
}

// behindNames is where the first record of a frame begins; 0 if it can have none.
func behindNames(l letter) int {
	first := int(binary.LittleEndian.Uint32(l.body))
	switch l.kind {
	case replication.FrameRaft:
		return 4 + first
	case replication.FramePropose:
		return 4 + first*24
	}
	return 0
}
