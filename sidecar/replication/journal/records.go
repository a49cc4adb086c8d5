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
	KindPlaced    Kind = 4 // Payload, some of whose content is in the replica's arena
	KindEntry     Kind = 5 // Entry
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
	case KindPlaced:
		return "placed"
	case KindEntry:
		return "entry"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

func (k Kind) known() bool {
	return k >= KindPayload && k <= KindEntry
}

// Sizes of the bodies, or of the fixed part that their data follows.
const (
	PayloadHeaderBytes = 24
	PlacementBytes     = 24
	BindingBytes       = 40
	HardStateBytes     = 24
	EntryHeaderBytes   = 24
)

// Payload is a record as its owner named it: (Epoch, Seq), written by this incarnation of the owner.
type Payload struct {
	Epoch       uint64
	Incarnation uint32
	Seq         uint64
	Placed      []Placement // of KindPlaced
	Record      []byte      // without the content that Placed names
}

// Placement is content that was written once: into blocks of an arena slot in which nothing was before.
type Placement struct {
	Slot  uint32
	First uint32 // block in the slot
	Count uint32 // blocks
	Op    uint32 // which of the record's operations it is the content of
	Sum   uint32 // CRC-32C of the blocks' CRC-32Cs, 4 bytes each, in order
}

// Kind of the frame that p is the body of.
func (p Payload) Kind() Kind {
	if len(p.Placed) > 0 {
		return KindPlaced
	}
	return KindPayload
}

// AppendHeader appends the fixed part of p's body to dst; p.Record follows it.
func (p Payload) AppendHeader(dst []byte) []byte { return p.appendHeader(dst) }

// AppendTo appends p's body to dst.
func (p Payload) AppendTo(dst []byte) []byte { return append(p.appendHeader(dst), p.Record...) }

func (p Payload) appendHeader(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, p.Epoch)
	dst = binary.LittleEndian.AppendUint32(dst, p.Incarnation)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(p.Placed)))
	dst = binary.LittleEndian.AppendUint64(dst, p.Seq)
	for _, pl := range p.Placed {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(pl.Slot))
		dst = binary.LittleEndian.AppendUint32(dst, pl.First)
		dst = binary.LittleEndian.AppendUint32(dst, pl.Count)
		dst = binary.LittleEndian.AppendUint32(dst, pl.Op)
		dst = binary.LittleEndian.AppendUint32(dst, pl.Sum)
	}
	return dst
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

// DecodePlaced reads the body of a KindPlaced frame. Record is a part of body, not a copy. The error is a *BodyError.
func DecodePlaced(body []byte) (Payload, error) {
	bad := func(reason string) (Payload, error) {
		return Payload{}, &BodyError{Kind: KindPlaced, Length: len(body), Reason: reason}
	}
	if len(body) < PayloadHeaderBytes {
		return bad("shorter than its 24 byte header")
	}
	le := binary.LittleEndian
	p := Payload{Epoch: le.Uint64(body), Incarnation: le.Uint32(body[8:]), Seq: le.Uint64(body[16:])}
	n := uint64(le.Uint32(body[12:]))
	rest := body[PayloadHeaderBytes:]
	if n == 0 || n > uint64(len(rest)/PlacementBytes) {
		return bad("none, or more placements than it has room for")
	}
	for ; n > 0; n-- {
		slot := le.Uint64(rest)
		pl := Placement{Slot: uint32(slot), First: le.Uint32(rest[8:]), Count: le.Uint32(rest[12:]), Op: le.Uint32(rest[16:]), Sum: le.Uint32(rest[20:])}
		if slot > 1<<32-1 || pl.Count == 0 || uint64(pl.First)+uint64(pl.Count) > slotBlocks {
			return bad("a placement outside of its slot")
		}
		p.Placed, rest = append(p.Placed, pl), rest[PlacementBytes:]
	}
	p.Record = rest
	return p, nil
}

// slotBlocks is how many blocks of 4 KiB a slot of the arena has.
const slotBlocks = 256

// PayloadOf reads the body of a frame of either kind that carries a record; false if it is of another kind.
func PayloadOf(f Frame) (Payload, bool, error) {
	switch f.Kind {
	case KindPayload:
		p, err := DecodePayload(f.Body)
		return p, true, err
	case KindPlaced:
		p, err := DecodePlaced(f.Body)
		return p, true, err
	}
	return Payload{}, false, nil
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
