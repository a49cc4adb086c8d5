package replicationtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// Notes are what a history writes down while it runs, for others to check what the disk has after its end: a process that died
// leaves them, and one run is compared with many power cuts. Each note has a position of the disk under the history, such as how
// much was written to it: a state may be on the disk from the position on at which its operation began, and must be there from
// the one that was seen after its fsync had returned.
type Notes struct {
	notes []note
}

type note struct {
	At       int64      `json:"at"`
	Replica  diskdir.ID `json:"replica,omitempty"` // the machine's
	Epoch    uint64     `json:"epoch,omitempty"`   // the newest that it may have used
	Key      []byte     `json:"key,omitempty"`
	State    *string    `json:"state,omitempty"`    // an operation begins that leads to it
	Answered *int       `json:"answered,omitempty"` // the operation was answered
	Synced   *int       `json:"synced,omitempty"`   // the state is durable
	Found    *int       `json:"found,omitempty"`    // the volume was opened again: the states behind this one are gone
}

// notebook is where a history writes its notes.
type notebook struct {
	w        io.Writer
	position func() int64
}

func (b *notebook) write(t testing.TB, n note) {
	if b == nil {
		return
	}
	line, err := json.Marshal(n)
	require.NoError(t, err)
	_, err = b.w.Write(append(line, '\n')) // at once: the death of the process must not lose it
	require.NoError(t, err)
}

func (b *notebook) at() int64 {
	if b == nil {
		return 0
	}
	return b.position()
}

// ReadNotes reads what a history wrote. A half-written last note is none.
func ReadNotes(file string) (*Notes, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	n := &Notes{}
	for d := json.NewDecoder(f); ; {
		var next note
		err := d.Decode(&next)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return n, nil
		}
		if err != nil {
			return nil, fmt.Errorf("notes %s: %w", file, err)
		}
		n.notes = append(n.notes, next)
	}
}

// Started is the position at which the first state was durable: before it there may be no volume. -1 if there is none.
func (n *Notes) Started() int64 {
	for _, x := range n.notes {
		if x.Synced != nil {
			return x.At
		}
	}
	return -1
}

// Recovered is the position at which the volume was there again, if the history went on from a crash; else 0.
func (n *Notes) Recovered() int64 {
	for _, x := range n.notes {
		if x.Found != nil {
			return x.At
		}
	}
	return 0
}

// Answered is the last state that was answered; it must be there after the death of the process.
func (n *Notes) Answered() (state int) {
	for _, x := range n.notes {
		if x.Answered != nil {
			state = *x.Answered
		}
	}
	return state
}

// Syncs counts the states that were acknowledged as durable.
func (n *Notes) Syncs() (k int) {
	for _, x := range n.notes {
		if x.Synced != nil {
			k++
		}
	}
	return k
}

// End is a position behind all notes.
const End = math.MaxInt64

// History is the history as it was at a position. It is not started: Recover does that.
func (n *Notes) History(t testing.TB, rng *rand.Rand, at int64) *History {
	h := &History{Machine: &Machine{t: t, rng: rng, tuning: usual, ledger: newLedger(t)}, model: newModel()}
	for _, x := range n.notes {
		switch {
		case x.At > at:
		case x.Replica != 0:
			h.replica, h.key = x.Replica, x.Key
			h.epoch = max(h.epoch, record.Epoch(x.Epoch))
		case x.State != nil:
			h.states = append(h.states, *x.State)
		case x.Synced != nil:
			h.synced = *x.Synced
		case x.Found != nil:
			h.states = h.states[:*x.Found+1]
			h.synced = min(h.synced, *x.Found)
		}
	}
	return h
}

// NoteTo writes notes from here on: first what is known so far, as known at the position from.
func (h *History) NoteTo(w io.Writer, position func() int64, from int64) {
	h.notes = &notebook{w, func() int64 { return from }}
	h.noteMachine(h.epoch)
	for _, s := range h.states {
		h.notes.write(h.t, note{At: from, State: &s})
	}
	h.noteSynced(h.synced)
	h.notes.position = position
}

// Recover starts the machine on what a crash left in the directory root of fs, whose notes are still at the position of that
// crash or have none.
func (h *History) Recover(fs disk.FS, root string) {
	h.noteMachine(h.epoch + 1)
	h.Move(fs, root)
}

// Expect says that a state must be there: Check refuses an older one.
func (h *History) Expect(state int) { h.synced = max(h.synced, state) }

// States returns how many states there are and which of them must be there.
func (h *History) States() (n, synced int) { return len(h.states), h.synced }

// Sync waits until everything that was done is durable.
func (h *History) Sync() error { return h.vol.Sync(h.t.Context(), h.caller()) }

func (h *History) noteMachine(epoch record.Epoch) {
	h.notes.write(h.t, note{At: h.notes.at(), Replica: h.replica, Epoch: uint64(epoch), Key: h.key})
}

func (h *History) noteState(s string) {
	h.states = append(h.states, s)
	h.seen.begun.Store(int64(len(h.states) - 1))
	h.notes.write(h.t, note{At: h.notes.at(), State: &s})
}

// noteFound says that the volume was opened again and has the last state, and no other behind it.
func (h *History) noteFound() {
	last := len(h.states) - 1
	h.seen.begun.Store(int64(last))
	h.seen.answered.Store(int64(last))
	h.notes.write(h.t, note{At: h.notes.at(), Found: &last})
	h.noteSynced(last)
}

func (h *History) noteSynced(state int) {
	h.synced = state
	h.seen.durable.Store(int64(state))
	h.notes.write(h.t, note{At: h.notes.at(), Synced: &state})
}
