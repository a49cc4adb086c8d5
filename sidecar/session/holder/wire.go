package holder

import (
	"encoding/json"
)

// maxLine bounds a line of the protocol. INIT and its reply have less than 200 bytes each.
const maxLine = 16 << 10

// request is a line from a sidecar.
type request struct {
	Op      string `json:"op"` // attach, offer, init, ready or lost
	Volume  string `json:"volume,omitempty"`
	Session string `json:"session,omitempty"` // hexadecimal; of an offer
	Init    []byte `json:"init,omitempty"`
	Reply   []byte `json:"reply,omitempty"`
}

// answer is a line to a sidecar. The descriptor travels with the answer to attach.
type answer struct {
	OK      bool   `json:"ok,omitempty"`
	Error   string `json:"error,omitempty"`
	Session string `json:"session,omitempty"` // hexadecimal
	State   State  `json:"state,omitempty"`   // Fresh or Ready
	Init    []byte `json:"init,omitempty"`
	Reply   []byte `json:"reply,omitempty"`
}

func (a answer) err() error {
	if a.Error != "" {
		return &RefusedError{a.Error}
	}
	return nil
}

// RefusedError is the holder's answer to what it does not do. Asking again is of no use.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "holder: " + e.Why }

func line(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}
