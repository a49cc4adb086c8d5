package replication

import (
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// Logs sorts the frames of a journal by replica, as OpenDisk does, for programs that look at a disk directory without serving it.
type Logs struct{ found histories }

// NewLogs starts without frames.
func NewLogs() *Logs { return &Logs{found: histories{}} }

// Arena reads the content that the frames of a disk directory name, for journal.Scan. again is called when the frames so far are to be
// forgotten; l forgets them too.
func (l *Logs) Arena(fs disk.FS, dir string, again func()) journal.Arena {
	return &arenas{fs: fs, path: func(id diskdir.ID) string { return diskdir.ArenaPath(dir, id) }, again: func() {
		clear(l.found)
		again()
	}}
}

// Visit takes the next frame; journal.Scan calls it.
func (l *Logs) Visit(f journal.Frame) error { return l.found.visit(f) }

// Members calls visit for each replica that has frames.
func (l *Logs) Members(visit func(group, replica diskdir.ID)) {
	for key := range l.found {
		visit(key.group, key.replica)
	}
}

// LogEntry is a record of a replica's log, and where its payload frame is.
type LogEntry struct {
	store.Entry
	LSN journal.LSN
}

// Log is what a journal has of a replica above its checkpoint.
type Log struct {
	Bound   []LogEntry // the log as far as it is committed: what recovery applies. Raft's own entries have no record
	Open    []LogEntry // the log behind it: a group of several may still decide otherwise
	Unbound []LogEntry // what an owner had answered: the next one proposes it again
	Last    record.Index
	Hard    journal.HardState
}

// Of returns the log of a replica as recovery reads it; several tells that its group has or had several members, of which the metadata knows
// that everything up to applied is committed. Errors wrap store.ErrDamaged.
func (l *Logs) Of(group, replica diskdir.ID, from store.Checkpoint, several bool, applied record.Index, keys *seal.Keys) (Log, error) {
	h := l.found[replicaKey{group, replica}]
	if h == nil {
		return Log{Last: from.Index}, nil
	}
	commit := h.last
	if several {
		commit = max(from.Index, applied, record.Index(h.hard.Commit))
	}
	bound, unbound, err := h.log(from, commit, keys)
	log := Log{Last: max(from.Index, h.last), Hard: h.hard}
	for _, it := range bound {
		e := LogEntry{store.Entry{Index: it.index, Record: it.rec, Placed: it.placed}, it.payload}
		if it.index <= commit {
			log.Bound = append(log.Bound, e)
		} else {
			log.Open = append(log.Open, e)
		}
	}
	for _, it := range unbound {
		log.Unbound = append(log.Unbound, LogEntry{store.Entry{Record: it.rec, Placed: it.placed}, it.payload})
	}
	return log, err
}

// Records calls visit for every payload frame of a replica, in order, with its record or why it does not decode.
func (l *Logs) Records(group, replica diskdir.ID, keys *seal.Keys, visit func(journal.LSN, *record.Record, error)) {
	h := l.found[replicaKey{group, replica}]
	if h == nil {
		return
	}
	for i := range h.payloads {
		p := &h.payloads[i]
		r, _, err := p.decode(keys)
		if err == nil {
			err = learn(keys, r)
		}
		visit(p.lsn, r, err)
	}
}
