package diskdir

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func superFile(t testing.TB, magic [8]byte, v any) []byte {
	var b []byte
	for g := range uint64(2) {
		page, err := encodeSuper(magic, g+2, v)
		require.NoError(t, err)
		b = append(b, page...)
	}
	return b
}

// FuzzSuper: whatever a superblock's two pages hold, it is read or refused.
func FuzzSuper(f *testing.F) {
	f.Add(superFile(f, diskMagic, diskSuper{DiskID: "000102030405060708090a0b0c0d0e0f", Tenant: "t", SegmentBytes: 1 << 20}))
	f.Add(superFile(f, replicaMagic, replicaSuper{ReplicaInfo: ReplicaInfo{Replica: 1, Group: 2, Volume: "v"}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, 2*copySize)...)[:2*copySize]
		s := inspectSuper(b)
		for i, c := range s.Copies {
			if c.Err == nil {
				require.LessOrEqual(t, len(c.Body), copySize-superHeader, i)
			}
		}
		if d, err := s.Disk(); err == nil {
			_, _ = d.Identity()
		}
		if r, err := s.Replica(); err == nil {
			_ = r.Replica.String()
		}
	})
}

// TestEveryFlipOfASuperblock: no bit of a copy but those of its padding may change.
func TestEveryFlipOfASuperblock(t *testing.T) {
	b := superFile(t, diskMagic, diskSuper{DiskID: "000102030405060708090a0b0c0d0e0f", Tenant: "t", SegmentBytes: 1 << 20})
	n := int(b[20]) + superHeader
	for i := range copySize {
		for bit := range 8 {
			b[i] ^= 1 << bit
			s := inspectSuper(b)
			require.Equal(t, i < n, s.Copies[0].Err != nil, "byte %d bit %d", i, bit)
			require.NoError(t, s.Copies[1].Err)
			_, err := s.Disk()
			require.NoError(t, err, "the other copy counts")
			b[i] ^= 1 << bit
		}
	}
}
