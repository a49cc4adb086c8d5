package replication

import (
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/store"
)

// A replica whose metadata is damaged (store.ErrDamaged) has still its journal: what it has voted for and acknowledged is there, and so is what
// its owner had answered. It keeps its place in the group, and its state is replaced by a peer's (catchup.go, install.go): the superblock says Installing,
// and whoever opens the replica finds it hollow. Where the journal or the superblock is what is damaged, the replica is none any more, and
// only a new one, with another ID, may take its place: that is up to the Volume object (package sidecar).

// ErrReplace: the state of the replica is damaged, and will be replaced by a peer's when a new process opens it.
var ErrReplace = errors.New("a peer's state takes the place of the damaged one at the next start")

// distrust notes durably that the state here is of no use, if it is damaged, and if somebody else has one and stays. It returns err, which then is
// ErrReplace, too. Who calls it uses the store no more, and saves no checkpoint.
func (g *Group) distrust(err error) error {
	if g.cfg.Peers == nil || g.witness() || !errors.Is(err, store.ErrDamaged) || g.disk.syncs.failure() != nil {
		return err
	}
	replica := g.cfg.Replica
	state := replica.GroupState()
	if state.Installing || !g.othersVote(state.Members) || !g.othersStay() {
		return err
	}
	state.Installing = true
	if saveErr := replica.SaveGroupCheckpoint(replica.Checkpoint(), replica.JournalFrom(), state); saveErr != nil {
		return errors.Join(err, saveErr)
	}
	g.cfg.Logger.Error("the state of this replica is damaged; it is replaced by a peer's", "replica", g.key().replica.String(), "err", err)
	return fmt.Errorf("%w: %w", ErrReplace, err)
}

// othersVote tells whether the group, as it was at the checkpoint, has voters beside this replica.
func (g *Group) othersVote(members []byte) bool {
	conf := &pb.ConfState{}
	if members == nil || conf.Unmarshal(members) != nil {
		return false
	}
	self := uint64(g.key().replica)
	return slices.ContainsFunc(conf.Voters, func(id uint64) bool { return id != self })
}

// othersStay tells whether the Volume object names somebody else who has the volume's content and is not to go: a checkpoint's members may be
// those of before the others left, and what was committed since nobody else has then.
func (g *Group) othersStay() bool {
	if g.cfg.Peers.Members == nil {
		return true
	}
	self := uint64(g.key().replica)
	return slices.ContainsFunc(g.cfg.Peers.Members(), func(m Member) bool {
		return m.ID != self && !m.Witness && (m.Role == Voter || m.Role == Learner && m.Filled)
	})
}

// openState opens the store, or finds that it is being replaced, or must be.
func (g *Group) openState() (err error) {
	if g.witness() {
		return nil
	}
	if g.hollow.Store(g.cfg.Replica.GroupState().Installing); !g.hollow.Load() {
		if g.store, err = store.Open(g.storeConfig()); err == nil {
			return nil
		}
		if err = g.distrust(err); !errors.Is(err, ErrReplace) {
			return err
		}
		g.hollow.Store(true) // nothing of it was opened, so it needs no new process
	}
	g.replaced = true
	return g.recallSalts()
}
