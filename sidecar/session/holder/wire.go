package holder

import (
	"encoding/json"
	"errors"
)

// maxLine bounds a line of the protocol. INIT and its reply have less than 200 bytes each.
const maxLine = 16 << 10

// request is a line from a sidecar.
type request struct {
	Op     string `json:"op"` // attach, init, ready or lost
	Volume string `json:"volume,omitempty"`
	Init   []byte `json:"init,omitempty"`
	Reply  []byte `json:"reply,omitempty"`
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
		return errors.New("holder: " + a.Error)
	}
	return nil
}

func line(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}
