package record

import "unsafe"

// Room is memory for records that are decoded one after the other and live about as long as each other, those of one message: a few pieces
// for all of them in place of several for each. None of it is given back before nobody has any of the records any more.
type Room struct {
	more    int // records are expected, at most
	records run[Record]
	muts    run[Mutation]
	ops     run[BlockOp]
	seals   run[Seal]
	bytes   run[byte]
}

// NewRoom is one for so many records, if they are like the first.
func NewRoom(records int) *Room { return &Room{more: records} }

// Decode is Decode into the room.
func (m *Room) Decode(b []byte, sealer Sealer) (*Record, error) {
	r, err := m.decode(b, sealer, nil)
	m.more = max(0, m.more-1)
	return r, err
}

// run is a piece of memory of which the beginning is taken.
type run[T any] struct{ left []T }

// runBytes bounds what is taken ahead: a record says itself how much it has, and the others may have nothing.
const runBytes = 32 << 10

// take returns n zero values with no room behind them. Where so many are not left, it makes room for those of the next records, too.
func (r *run[T]) take(more, n int) []T {
	if n > len(r.left) {
		ahead := min(more, runBytes/(n*int(unsafe.Sizeof(*new(T)))))
		if ahead < 2 {
			return make([]T, n)
		}
		r.left = make([]T, n*ahead)
	}
	part := r.left[:n:n]
	r.left = r.left[n:]
	return part
}
