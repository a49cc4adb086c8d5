package record

import "encoding/binary"

// Acceptance decides, in log order and by the same rule on every replica, which records count (I5): an Owner record whose epoch
// is newer than any before, and a Change of the current epoch and incarnation whose seq is the last one plus one. Everything
// else is a no-op.
type Acceptance struct {
	Epoch       Epoch
	Incarnation Incarnation
	Last        Seq
}

// Step takes the next record of the log and tells whether it is accepted.
func (a *Acceptance) Step(kind Kind, n Name) bool {
	switch kind {
	case Owner:
		if n.Epoch <= a.Epoch || n.Seq != 0 {
			return false
		}
		*a = Acceptance{Epoch: n.Epoch, Incarnation: n.Incarnation}
		return true
	case Change:
		if n.Epoch != a.Epoch || n.Incarnation != a.Incarnation || n.Seq != a.Last+1 {
			return false
		}
		a.Last = n.Seq
		return true
	}
	return false
}

// AcceptanceSize is the length of an encoded Acceptance.
const AcceptanceSize = 20

// Append encodes a.
func (a Acceptance) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(a.Epoch))
	b = binary.LittleEndian.AppendUint32(b, uint32(a.Incarnation))
	return binary.LittleEndian.AppendUint64(b, uint64(a.Last))
}

// DecodeAcceptance reads what Append wrote.
func DecodeAcceptance(b []byte) (Acceptance, error) {
	if len(b) != AcceptanceSize {
		return Acceptance{}, malformed("acceptance state of %d bytes, want %d", len(b), AcceptanceSize)
	}
	return Acceptance{
		Epoch:       Epoch(binary.LittleEndian.Uint64(b)),
		Incarnation: Incarnation(binary.LittleEndian.Uint32(b[8:])),
		Last:        Seq(binary.LittleEndian.Uint64(b[12:])),
	}, nil
}
