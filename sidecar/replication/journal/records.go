package journal

import (
	"encoding/binary"
	"fmt"
)

// Kind says what a frame's body is. The numbers are on disk and never reused.
type Kind uint8

const (
	KindPayload   Kind = 1 // Payload
	KindBinding   Kind = 2 // Binding
	KindHardState Kind = 3 // HardState
	// 4 is reserved for a payload whose whole chunks are in arena slots.
	KindEntry Kind = 5 // Entry
)

// String returns the kind's name, or its number if this version does not know it.
func (k Kind) String() string {
	switch k {
	case KindPayload:
		return "payload"
	case KindBinding:
		return "binding"
	case KindHardState:
		return "hardstate"
	case KindEntry:
		return "entry"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

func (k Kind) known() bool {
	return k == KindPayload || k == KindBinding || k == KindHardState || k == KindEntry
}

// Sizes of the bodies, or of the fixed part that their data follows.
const (
	PayloadHeaderBytes = 24
	BindingBytes       = 40
	HardStateBytes     = 24
	EntryHeaderBytes   = 24
)

// Payload is a record as its owner named it: (Epoch, Seq), written by this incarnation of the owner.
type Payload struct {
	Epoch       uint64
	Incarnation uint32
	Seq         uint64
	Record      []byte
}

// Header returns the fixed part of p's body; p.Record follows it.
func (p Payload) Header() []byte { return p.appendHeader(make([]byte, 0, PayloadHeaderBytes)) }

// AppendTo appends p's body to dst.
func (p Payload) AppendTo(dst []byte) []byte { return append(p.appendHeader(dst), p.Record...) }

func (p Payload) appendHeader(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, p.Epoch)
	dst = binary.LittleEndian.AppendUint32(dst, p.Incarnation)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	return binary.LittleEndian.AppendUint64(dst, p.Seq)
}

// DecodePayload reads the body of a KindPayload frame. Record is a part of body, not a copy. The error is a *BodyError.
func DecodePayload(body []byte) (Payload, error) {
	if len(body) < PayloadHeaderBytes {
		return Payload{}, &BodyError{Kind: KindPayload, Length: len(body), Reason: "shorter than its 24 byte header"}
	}
	if binary.LittleEndian.Uint32(body[12:]) != 0 {
		return Payload{}, &BodyError{Kind: KindPayload, Length: len(body), Reason: reservedNotZero}
	}
	return Payload{
		Epoch:       binary.LittleEndian.Uint64(body[0:]),
		Incarnation: binary.LittleEndian.Uint32(body[8:]),
		Seq:         binary.LittleEndian.Uint64(body[16:]),
		Record:      body[PayloadHeaderBytes:],
	}, nil
}

// Binding gives the Count records (Epoch, Seq), (Epoch, Seq+1), ... the Raft indexes Index, Index+1, ... in Term.
type Binding struct {
	Index uint64
	Term  uint64
	Epoch uint64
	Seq   uint64
	Count uint32
}

// AppendTo appends b's body to dst.
func (b Binding) AppendTo(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, b.Index)
	dst = binary.LittleEndian.AppendUint64(dst, b.Term)
	dst = binary.LittleEndian.AppendUint64(dst, b.Epoch)
	dst = binary.LittleEndian.AppendUint64(dst, b.Seq)
	dst = binary.LittleEndian.AppendUint32(dst, b.Count)
	return binary.LittleEndian.AppendUint32(dst, 0)
}

// DecodeBinding reads the body of a KindBinding frame. The error is a *BodyError.
func DecodeBinding(body []byte) (Binding, error) {
	if len(body) != BindingBytes {
		return Binding{}, &BodyError{Kind: KindBinding, Length: len(body), Reason: "not 40 bytes"}
	}
	if binary.LittleEndian.Uint32(body[36:]) != 0 {
		return Binding{}, &BodyError{Kind: KindBinding, Length: len(body), Reason: reservedNotZero}
	}
	b := Binding{
		Index: binary.LittleEndian.Uint64(body[0:]),
		Term:  binary.LittleEndian.Uint64(body[8:]),
		Epoch: binary.LittleEndian.Uint64(body[16:]),
		Seq:   binary.LittleEndian.Uint64(body[24:]),
		Count: binary.LittleEndian.Uint32(body[32:]),
	}
	// A reader adds Count to both; a sum that wraps around would bind the wrong records.
	if b.Index+uint64(b.Count) < b.Index || b.Seq+uint64(b.Count) < b.Seq {
		return Binding{}, &BodyError{Kind: KindBinding, Length: len(body), Reason: "index or seq overflows"}
	}
	return b, nil
}

// HardState is Raft's HardState.
type HardState struct {
	Term   uint64
	Vote   uint64
	Commit uint64
}

// AppendTo appends h's body to dst.
func (h HardState) AppendTo(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, h.Term)
	dst = binary.LittleEndian.AppendUint64(dst, h.Vote)
	return binary.LittleEndian.AppendUint64(dst, h.Commit)
}

// DecodeHardState reads the body of a KindHardState frame. The error is a *BodyError.
func DecodeHardState(body []byte) (HardState, error) {
	if len(body) != HardStateBytes {
		return HardState{}, &BodyError{Kind: KindHardState, Length: len(body), Reason: "not 24 bytes"}
	}
	return HardState{
		Term:   binary.LittleEndian.Uint64(body[0:]),
		Vote:   binary.LittleEndian.Uint64(body[8:]),
		Commit: binary.LittleEndian.Uint64(body[16:]),
	}, nil
}

// Entry is a Raft entry that has no payload frame: a change of members, an empty entry of a new leader.
type Entry struct {
	Index uint64
	Term  uint64
	Type  uint32 // raftpb.EntryType
	Data  []byte
}

// AppendTo appends e's body to dst.
func (e Entry) AppendTo(dst []byte) []byte { return append(e.appendHeader(dst), e.Data...) }

func (e Entry) appendHeader(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, e.Index)
	dst = binary.LittleEndian.AppendUint64(dst, e.Term)
	dst = binary.LittleEndian.AppendUint32(dst, e.Type)
	return binary.LittleEndian.AppendUint32(dst, 0)
}

// DecodeEntry reads the body of a KindEntry frame. Data is a part of body, not a copy. The error is a *BodyError.
func DecodeEntry(body []byte) (Entry, error) {
	if len(body) < EntryHeaderBytes {
		return Entry{}, &BodyError{Kind: KindEntry, Length: len(body), Reason: "shorter than its 24 byte header"}
	}
	if binary.LittleEndian.Uint32(body[20:]) != 0 {
		return Entry{}, &BodyError{Kind: KindEntry, Length: len(body), Reason: reservedNotZero}
	}
	return Entry{
		Index: binary.LittleEndian.Uint64(body[0:]),
		Term:  binary.LittleEndian.Uint64(body[8:]),
		Type:  binary.LittleEndian.Uint32(body[16:]),
		Data:  body[EntryHeaderBytes:],
	}, nil
}
