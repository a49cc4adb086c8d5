package record

import (
	"encoding/binary"
	"errors"
	"slices"
)

const (
	flagSealed = 1
	tagSize    = 16
)

// AppendMeta encodes everything but the content bytes, which follow it on disk in the order of Ops. With a sealer everything behind
// the header is sealed; the content is sealed block by block already. An Owner record never is: it has the salt.
func (r *Record) AppendMeta(b []byte, sealer Sealer) ([]byte, error) {
	start := len(b)
	sealed := sealer != nil && r.Kind != Owner
	b = r.appendHeader(b, sealed)
	if sealed {
		b = append(b, make([]byte, tagSize)...)
	}
	body := len(b)
	b = r.appendSections(b)
	if sealed {
		tag, err := sealer.Record(r.Name, r.SealN, b[start:start+headerSize], b[body:])
		if err != nil {
			return nil, err
		}
		copy(b[start+headerSize:], tag[:])
	}
	return b, nil
}

func (r *Record) appendHeader(b []byte, sealed bool) []byte {
	le := binary.LittleEndian
	mutBytes, opBytes := r.sectionSizes()
	flags := byte(0)
	if sealed {
		flags = flagSealed
	}
	b = append(b, magic[:]...)
	b = append(b, version, byte(r.Kind), flags, 0)
	b = le.AppendUint64(b, uint64(r.Name.Epoch))
	b = le.AppendUint32(b, uint32(r.Name.Incarnation))
	b = le.AppendUint16(b, r.SealN)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, uint64(r.Name.Seq))
	b = le.AppendUint64(b, r.Session)
	b = le.AppendUint64(b, r.Unique)
	b = le.AppendUint64(b, uint64(r.Time))
	b = le.AppendUint32(b, uint32(len(r.Answered)))
	b = le.AppendUint32(b, uint32(len(r.Answer)))
	b = le.AppendUint32(b, uint32(len(r.Muts)))
	b = le.AppendUint32(b, uint32(mutBytes))
	b = le.AppendUint32(b, uint32(len(r.Ops)))
	b = le.AppendUint32(b, uint32(opBytes))
	b = le.AppendUint32(b, uint32(r.DataBytes()))
	return append(b, make([]byte, 12)...)
}

func (r *Record) appendSections(b []byte) []byte {
	le := binary.LittleEndian
	for _, u := range r.Answered {
		b = le.AppendUint64(b, u)
	}
	b = append(b, r.Answer...)
	for i := range r.Muts {
		b = appendMutation(b, &r.Muts[i])
	}
	for i := range r.Ops {
		b = appendOp(b, &r.Ops[i])
	}
	return b
}

func (r *Record) sectionSizes() (muts, ops int) {
	for i := range r.Muts {
		muts += mutHeader + len(r.Muts[i].Key) + len(r.Muts[i].Value)
	}
	for i := range r.Ops {
		ops += opHeader + SealSize*len(r.Ops[i].Seals)
	}
	return muts, ops
}

// EncodedSize is the most that AppendMeta's result and the content bytes have together.
func (r *Record) EncodedSize() int {
	muts, ops := r.sectionSizes()
	return headerSize + tagSize + 8*len(r.Answered) + len(r.Answer) + muts + ops + r.DataBytes()
}

// Encode returns the whole record in one piece.
func (r *Record) Encode(sealer Sealer) ([]byte, error) {
	b, err := r.AppendMeta(make([]byte, 0, r.EncodedSize()), sealer)
	for i := range r.Ops {
		b = append(b, r.Ops[i].Data...)
	}
	return b, err
}

func appendMutation(b []byte, m *Mutation) []byte {
	op := byte(1)
	if m.Delete {
		op = 2
	}
	b = append(b, op, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(m.Key)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Value)))
	b = append(b, m.Key...)
	return append(b, m.Value...)
}

func appendOp(b []byte, o *BlockOp) []byte {
	b = append(b, byte(o.Kind), 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(o.Count))
	b = binary.LittleEndian.AppendUint32(b, o.First)
	b = binary.LittleEndian.AppendUint64(b, uint64(o.Blob))
	for i := range o.Seals {
		b = AppendSeal(b, &o.Seals[i])
	}
	return b
}

// DecodeHeader reads the fixed part alone.
func DecodeHeader(b []byte) (Header, error) {
	le := binary.LittleEndian
	if len(b) < headerSize {
		return Header{}, malformed("%d bytes, a header has %d", len(b), headerSize)
	}
	if [4]byte(b[:4]) != magic {
		return Header{}, malformed("magic %x", b[:4])
	}
	if b[4] != version {
		return Header{}, malformed("version %d, this program reads %d", b[4], version)
	}
	h := Header{
		Kind:    Kind(b[5]),
		Name:    Name{Epoch(le.Uint64(b[8:])), Incarnation(le.Uint32(b[16:])), Seq(le.Uint64(b[24:]))},
		Session: le.Uint64(b[32:]),
		Unique:  le.Uint64(b[40:]),
		Time:    int64(le.Uint64(b[48:])),
		SealN:   le.Uint16(b[20:]),
	}
	if h.Kind != Change && h.Kind != Owner {
		return Header{}, malformed("kind %d, this program knows %d and %d: a newer one wrote it", h.Kind, Change, Owner)
	}
	if flags := le.Uint16(b[6:]); flags&^flagSealed != 0 || le.Uint16(b[22:]) != 0 || le.Uint64(b[84:])|uint64(le.Uint32(b[92:])) != 0 {
		return Header{}, malformed("flags %#x or reserved bytes that this program does not know: a newer one wrote it", flags)
	}
	return h, nil
}

// ErrSealed: the record is sealed and there is nothing to open it with.
var ErrSealed = errors.New("record is sealed")

// Decode reads a whole record. The result shares b. A sealed record needs a sealer, and a sealer refuses a Change that is not sealed.
func Decode(b []byte, sealer Sealer) (*Record, error) { return DecodePlaced(b, sealer, nil) }

// DecodePlaced is Decode for a record without the content of the operations that absent names: that is in an arena.
func DecodePlaced(b []byte, sealer Sealer, absent []int) (*Record, error) {
	return new(Room).decode(b, sealer, absent)
}

func (m *Room) decode(b []byte, sealer Sealer, absent []int) (*Record, error) {
	h, err := DecodeHeader(b)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var n [7]int
	for i := range n {
		n[i] = int(le.Uint32(b[56+4*i:]))
	}
	answered, answer, muts, mutBytes, ops, opBytes, data := n[0], n[1], n[2], n[3], n[4], n[5], n[6]
	body := 8*answered + answer + mutBytes + opBytes
	head := headerSize
	sealed := b[6]&flagSealed != 0
	if sealed {
		head += tagSize
	}
	if total := head + body + data; total != len(b) && len(absent) == 0 || head+body > len(b) || total < len(b) {
		return nil, malformed("%d bytes, its header says %d", len(b), total)
	}
	missing := head + body + data - len(b)
	header, content := b[:headerSize], b[head+body:]
	switch {
	case sealed && sealer == nil:
		return nil, ErrSealed
	case sealed:
		if b, err = sealer.OpenRecord(m.bytes.take(m.more, body)[:0], h.Name, h.SealN, header, b[head:head+body], b[headerSize:head]); err != nil {
			return nil, err
		}
	case sealer != nil && h.Kind != Owner:
		return nil, malformed("record %v is not sealed, and the volume's are", h.Name)
	default:
		b = b[head : head+body]
	}
	if muts > mutBytes/mutHeader || ops > opBytes/opHeader {
		return nil, malformed("%d mutations in %d bytes, %d operations in %d", muts, mutBytes, ops, opBytes)
	}
	r := &m.records.take(m.more, 1)[0]
	r.Header = h
	for i := 0; i < answered; i++ {
		r.Answered = append(r.Answered, le.Uint64(b[8*i:]))
	}
	b = b[8*answered:]
	if answer > 0 {
		r.Answer, b = b[:answer:answer], b[answer:]
	}
	if r.Muts, err = m.decodeMutations(b[:mutBytes], muts); err != nil {
		return nil, err
	}
	r.Ops, err = m.decodeOps(b[mutBytes:], content, ops, absent)
	for _, i := range absent {
		if i >= len(r.Ops) || r.Ops[i].Data != nil || r.Ops[i].Kind != WriteBlocks {
			return nil, errors.Join(malformed("operation %d has no content elsewhere", i), err)
		}
		missing -= int(r.Ops[i].Count) * BlockSize
	}
	if err == nil && missing != 0 {
		err = malformed("%d bytes of content are elsewhere, its header says otherwise", missing)
	}
	return r, err
}

func (m *Room) decodeMutations(b []byte, n int) ([]Mutation, error) {
	if n == 0 && len(b) == 0 {
		return nil, nil
	}
	muts := m.muts.take(m.more, n)
	for i := range muts {
		if len(b) < mutHeader {
			return nil, malformed("mutation %d is cut", i)
		}
		key, val := int(binary.LittleEndian.Uint16(b[2:])), int(binary.LittleEndian.Uint32(b[4:]))
		op := b[0]
		b = b[mutHeader:]
		if op != 1 && op != 2 || key == 0 || key+val > len(b) || op == 2 && val != 0 {
			return nil, malformed("mutation %d: op %d, key of %d and value of %d bytes in %d", i, op, key, val, len(b))
		}
		muts[i] = Mutation{Key: b[:key:key], Value: b[key : key+val : key+val], Delete: op == 2}
		b = b[key+val:]
	}
	if len(b) != 0 {
		return nil, malformed("%d bytes behind the last mutation", len(b))
	}
	return muts, nil
}

func (m *Room) decodeOps(b, data []byte, n int, absent []int) ([]BlockOp, error) {
	if n == 0 && len(b) == 0 && len(data) == 0 {
		return nil, nil
	}
	ops := m.ops.take(m.more, n)
	for i := range ops {
		if len(b) < opHeader {
			return nil, malformed("operation %d is cut", i)
		}
		o := BlockOp{
			Kind: OpKind(b[0]), Count: uint32(binary.LittleEndian.Uint16(b[2:])),
			First: binary.LittleEndian.Uint32(b[4:]), Blob: BlobID(binary.LittleEndian.Uint64(b[8:])),
		}
		b = b[opHeader:]
		if o.Blob == 0 || uint64(o.First)+uint64(o.Count) > ChunkBlocks {
			return nil, malformed("operation %d: blob %d, blocks %d+%d", i, o.Blob, o.First, o.Count)
		}
		switch o.Kind {
		case WriteBlocks:
			size := int(o.Count) * BlockSize
			if slices.Contains(absent, i) {
				size = 0
			}
			if len(b) < int(o.Count)*SealSize || len(data) < size || o.Count == 0 {
				return nil, malformed("operation %d: %d blocks, %d bytes of content", i, o.Count, len(data))
			}
			o.Seals = m.seals.take(m.more, int(o.Count))
			for k := range o.Seals {
				o.Seals[k] = DecodeSeal(b[k*SealSize:])
			}
			b = b[int(o.Count)*SealSize:]
			if size > 0 {
				o.Data, data = data[:size:size], data[size:]
			}
		case PunchBlocks, FreeBlob:
		default:
			return nil, malformed("operation %d: kind %d", i, o.Kind)
		}
		ops[i] = o
	}
	if len(b) != 0 || len(data) != 0 {
		return nil, malformed("%d bytes of operations and %d of content left over", len(b), len(data))
	}
	return ops, nil
}
