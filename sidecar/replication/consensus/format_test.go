package consensus

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"
)

// TestBytesOfOthers: what versions wrote that were built with Raft 3.7, which leaves out what is zero, reads as what it was. Such bytes are in
// superblocks and journals, and come from peers.
func TestBytesOfOthers(t *testing.T) {
	bytes := func(text string) []byte {
		b, err := hex.DecodeString(text)
		require.NoError(t, err)
		return b
	}
	var m pb.Message
	require.NoError(t, m.Unmarshal(bytes("0803100218012007280630ac023a0b100718ad0222046e616d653a070802100718ae0240ab02")))
	require.Equal(t, pb.Message{Type: pb.MsgApp, To: 2, From: 1, Term: 7, LogTerm: 6, Index: 300, Commit: 299, Entries: []pb.Entry{
		{Term: 7, Index: 301, Data: []byte("name")}, {Type: pb.EntryConfChangeV2, Term: 7, Index: 302}}}, m)

	var members pb.ConfState
	require.NoError(t, members.Unmarshal(bytes("080108021004180118032801")))
	require.Equal(t, pb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{4}, VotersOutgoing: []uint64{1, 3}, AutoLeave: true}, members)

	change, err := confChange(&pb.Entry{Type: pb.EntryConfChangeV2, Data: bytes("120408011009")})
	require.NoError(t, err)
	require.Equal(t, &pb.ConfChangeV2{Changes: []pb.ConfChangeSingle{{Type: pb.ConfChangeRemoveNode, NodeID: 9}}}, change)
}
