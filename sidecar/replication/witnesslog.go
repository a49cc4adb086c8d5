package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// A replica that lacks what the leader's log has no more asks the witness for it. The answer to bulkLog (index u64 that is committed and
// applied there, replica ID u64) is a row of messages, each with its length (u32), in the form of a frame of Raft: committed entries, in order,
// with their records. A copy of the leader's state would do, too, but for one thing: while a state is being replaced there is none, and if the
// leader's disk is lost then, everything is.

const (
	logEntries = 64      // of a message, at most
	logBatch   = 1 << 20 // bytes of records after which a message ends
	logMessage = 8 << 20 // the longest that is read
	logPause   = 5 * time.Millisecond
)

// errNoLog: the witness does not have what is asked for.
var errNoLog = errors.New("the witness' log begins later")

// sendLog answers bulkLog.
func (g *Group) sendLog(ctx context.Context, request []byte, w io.Writer) error {
	if len(request) != 16 {
		return fmt.Errorf("%w: request for a log of %d bytes", ErrMessage, len(request))
	}
	le := binary.LittleEndian
	at, to := le.Uint64(request), le.Uint64(request[8:])
	for ctx.Err() == nil {
		body, last, err := g.logBehind(at, to)
		if err != nil || last == at {
			return err
		}
		if _, err := w.Write(append(le.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
			return err
		}
		at = last
	}
	return ctx.Err()
}

// logBehind is the next message; last is where it ends.
func (g *Group) logBehind(at, to uint64) (body []byte, last uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.witness() || g.failed != nil || g.closing {
		return nil, at, errNotHere
	}
	term, entries, err := g.peers.core.Log(at, logEntries)
	if err != nil {
		return nil, at, fmt.Errorf("%w: %w", errNoLog, err)
	}
	var records []byte
	n := 0
	for ; n < len(entries) && len(records) < logBatch; n++ {
		g.peers.body.begin()
		_, err := g.payloadOf(&entries[n])
		if err != nil {
			g.failLocked(err)
			return nil, at, err
		}
		for _, p := range g.peers.body.parts {
			records = append(records, p...)
		}
	}
	g.peers.body.begin()
	if n == 0 {
		return nil, at, nil
	}
	m := &pb.Message{Type: pb.MsgApp, From: uint64(g.key().replica), To: to, Index: at, LogTerm: term, Entries: entries[:n]}
	b, err := m.Marshal()
	if err != nil {
		return nil, at, err
	}
	body = append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
	return append(body, records...), entries[n-1].Index, nil
}

// byLog takes what this replica lacks from a witness, if there is one that has it; false if nothing came.
func (g *Group) byLog(ctx context.Context, leader uint64) bool {
	p := g.peers
	g.mu.Lock()
	at, _ := p.core.Delivered()
	skip := g.hollow.Load() || p.memberless() || at == 0 || p.cfg.Members == nil
	g.mu.Unlock()
	if skip {
		return false
	}
	for _, m := range p.cfg.Members() {
		if !m.Witness || m.ID == leader {
			continue
		}
		n, err := g.fetchLog(ctx, m.ID, at)
		if err != nil {
			g.cfg.Logger.Warn("the witness' log did not do", "err", err, "entries", n)
		}
		if n > 0 {
			g.cfg.Logger.Info("caught up with the group by the log of its witness", "from", fmt.Sprintf("%016x", m.ID), "index", at, "entries", n)
			return true
		}
	}
	return false
}

// fetchLog returns how many entries came that this replica lacked.
func (g *Group) fetchLog(ctx context.Context, witness, at uint64) (n int, err error) {
	le := binary.LittleEndian
	request := le.AppendUint64(le.AppendUint64([]byte{bulkLog}, at), uint64(g.key().replica))
	r, err := g.peers.cfg.Fetch(ctx, witness, request)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		if le.Uint32(size[:]) > logMessage {
			return n, fmt.Errorf("%w: %d bytes of a log", ErrMessage, le.Uint32(size[:]))
		}
		body := make([]byte, le.Uint32(size[:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return n, err
		}
		m, items, err := g.decode(FrameRaft, witness, body)
		if err != nil {
			return n, err
		}
		came, err := g.takeLog(ctx, m, items)
		if n += came; err != nil {
			return n, err
		}
	}
}

// takeLog puts entries of the group's log behind ours, when there is room for them.
func (g *Group) takeLog(ctx context.Context, m consensus.Message, items []*item) (n int, err error) {
	for {
		g.mu.Lock()
		if g.failed != nil || g.closing || ctx.Err() != nil {
			g.mu.Unlock()
			return 0, errors.Join(errNotHere, ctx.Err())
		}
		if p := g.peers; p.bytes <= p.tableBytes/2 || g.forgetAll() <= p.tableBytes/2 {
			break
		}
		g.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(logPause):
		}
	}
	defer g.unlock()
	p := g.peers
	before := p.core.Hard().Commit
	for _, it := range items {
		p.put(it)
	}
	if err := p.core.Behind(m.Raft); err != nil {
		return 0, err
	}
	g.process()
	if len(p.pending) > 0 {
		g.disk.poke(true)
	}
	return int(p.core.Hard().Commit - before), nil
}
