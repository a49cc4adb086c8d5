package authority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// Desk is what the node plugin does for one pod, and for that pod's volumes only.
type Desk interface {
	// Names returns the Volume objects' names by the pod's names for its volumes.
	Names(ctx context.Context) (map[string]string, error)
	// Get reads a Volume. ErrNotFound, ErrRefused.
	Get(ctx context.Context, name string) (v1alpha1.Volume, error)
	// Update is a compare-and-swap on Generation. ErrConflict, ErrRefused.
	Update(ctx context.Context, v v1alpha1.Volume) (v1alpha1.Volume, error)
	// Key returns the volume's key, and makes one for a volume that has no content yet. ErrRefused.
	Key(ctx context.Context, name string) ([]byte, error)
}

// ErrRefused: the other side understood, and does not do it. Asking again is of no use.
var ErrRefused = errors.New("refused")

// The ops of a Desk's lines, and what an answer says went wrong.
const (
	opNames  = "names"
	opGet    = "get"
	opUpdate = "update"
	opKey    = "key"

	wrongConflict = "conflict"
	wrongNotFound = "notFound"
	wrongRefused  = "refused"
	wrongLater    = "later" // whoever knows cannot be reached now
)

// deskRequest and deskAnswer are lines of the holder's socket, see package holder.
type deskRequest struct {
	Op     string           `json:"op"`
	Volume string           `json:"volume,omitempty"`
	Object *v1alpha1.Volume `json:"object,omitempty"`
}

type deskAnswer struct {
	Wrong  string            `json:"wrong,omitempty"`
	Why    string            `json:"why,omitempty"`
	Names  map[string]string `json:"names,omitempty"`
	Object *v1alpha1.Volume  `json:"object,omitempty"`
	Key    []byte            `json:"key,omitempty"`
}

// Answer answers one line of a sidecar. It is a holder.Config.Other.
func Answer(ctx context.Context, d Desk, op string, line []byte) (any, error) {
	var r deskRequest
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, err
	}
	var a deskAnswer
	var v v1alpha1.Volume
	var err error
	switch op {
	case opNames:
		a.Names, err = d.Names(ctx)
	case opGet:
		v, err = d.Get(ctx, r.Volume)
		a.Object = &v
	case opUpdate:
		if r.Object == nil {
			return nil, errors.New("update: object is missing")
		}
		v, err = d.Update(ctx, *r.Object)
		a.Object = &v
	case opKey:
		a.Key, err = d.Key(ctx, r.Volume)
	default:
		return nil, fmt.Errorf("unknown op %q", op)
	}
	if err != nil {
		return wrong(err), nil //nolint:nilerr // it travels in the answer
	}
	return a, nil
}

func wrong(err error) deskAnswer {
	a := deskAnswer{Wrong: wrongLater, Why: err.Error()}
	switch {
	case errors.Is(err, ErrConflict):
		a.Wrong = wrongConflict
	case errors.Is(err, ErrNotFound):
		a.Wrong = wrongNotFound
	case errors.Is(err, ErrRefused):
		a.Wrong = wrongRefused
	}
	return a
}

// Node asks the node plugin, through the pod's own socket. Every call waits until the plugin, and the API server behind it, can be reached
// or ctx ends: a sidecar that starts while they are away has nothing better to do.
type Node struct {
	Socket  string
	Waiting func(error) // told why a call waits, at the first try and then now and then; may be nil
}

// The pauses between two tries.
const (
	firstRetry   = 50 * time.Millisecond
	longestRetry = 2 * time.Second
)

// Names returns the Volume objects' names by the pod's names for its volumes.
func (n Node) Names(ctx context.Context) (map[string]string, error) {
	a, err := n.ask(ctx, deskRequest{Op: opNames})
	return a.Names, err
}

// Get reads a volume. ErrNotFound if there is none.
func (n Node) Get(ctx context.Context, name string) (v1alpha1.Volume, error) {
	return n.object(ctx, deskRequest{Op: opGet, Volume: name})
}

// Update writes v if the object still has v's Generation, and returns it with the new one. A conflict may be this process's own update,
// the answer to which was lost: who asks reads again in any case.
func (n Node) Update(ctx context.Context, v v1alpha1.Volume) (v1alpha1.Volume, error) {
	return n.object(ctx, deskRequest{Op: opUpdate, Object: &v})
}

// Key returns the volume's key. A volume that was never served gets one.
func (n Node) Key(ctx context.Context, name string) ([]byte, error) {
	a, err := n.ask(ctx, deskRequest{Op: opKey, Volume: name})
	return a.Key, err
}

func (n Node) object(ctx context.Context, r deskRequest) (v1alpha1.Volume, error) {
	a, err := n.ask(ctx, r)
	if err == nil && a.Object == nil {
		err = errors.New("the node plugin answered without an object")
	}
	if err != nil {
		return v1alpha1.Volume{}, err
	}
	return *a.Object, nil
}

func (n Node) ask(ctx context.Context, r deskRequest) (deskAnswer, error) {
	pause := firstRetry
	for tries := 0; ; tries++ {
		a, err := n.once(ctx, r)
		var refused *holder.RefusedError
		if err == nil || errors.As(err, &refused) || errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrRefused) {
			return a, err
		}
		if n.Waiting != nil && tries%20 == 0 {
			n.Waiting(err)
		}
		select {
		case <-ctx.Done():
			return a, errors.Join(ctx.Err(), err)
		case <-time.After(pause):
			pause = min(2*pause, longestRetry)
		}
	}
}

func (n Node) once(ctx context.Context, r deskRequest) (a deskAnswer, err error) {
	if err := holder.Call(ctx, n.Socket, r, &a); err != nil {
		return a, err
	}
	switch a.Wrong {
	case "":
		return a, nil
	case wrongConflict:
		return a, fmt.Errorf("%w: %s", ErrConflict, a.Why)
	case wrongNotFound:
		return a, fmt.Errorf("%w: %s", ErrNotFound, a.Why)
	case wrongRefused:
		return a, fmt.Errorf("%w: %s", ErrRefused, a.Why)
	default:
		return a, errors.New(a.Why)
	}
}
