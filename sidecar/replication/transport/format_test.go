package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGoldenBytes holds FORMAT.md.
func TestGoldenBytes(t *testing.T) {
	for name, c := range map[string]struct {
		h    Header
		body string
		hex  string
	}{
		"frame": {Header{Kind: 7, Group: 0x1122334455667788, From: 0x99, To: 0xaabb}, "123456789",
			"524d5446" + "6c8e2c7a" + "07" + "000000" + "09000000" + "8877665544332211" + "9900000000000000" + "bbaa000000000000" +
				"839206e3" + "00000000" + "313233343536373839"},
		"ping": {Header{Kind: kindPing}, "",
			"524d5446" + "c5ae75d0" + "fe" + "000000" + "00000000" + "0000000000000000" + "0000000000000000" + "0000000000000000" +
				"00000000" + "00000000"},
	} {
		b := appendFrame(nil, c.h, []byte(c.body))
		require.Equal(t, c.hex, hex.EncodeToString(b), name)
	}
	require.Equal(t, []uint8{249, 250, 251, 252, 253, 254, 255},
		[]uint8{kindFailed, kindEnd, kindData, kindBye, kindPong, kindPing, kindHello})
	require.Equal(t, "remora-frames/1 remora-bulk/1", protoFrames+" "+protoBulk)
}

// FuzzFrames: any bytes are frames or an error; what is read is what appendFrame writes; nothing is longer than allowed.
func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, Header{1, 7, 1, 2, nil}, []byte("one")), Header{Kind: kindPing}), uint16(100))
	f.Add(appendFrame(nil, Header{239, 1 << 63, 1, 2, nil}, make([]byte, 200)), uint16(199))
	f.Add(appendHeader(nil, Header{1, 7, 1, 2, nil}, 1<<32-1, 0), uint16(65535))
	f.Fuzz(func(t *testing.T, b []byte, maxBody uint16) {
		again := readAll(t, b, int(maxBody))
		require.True(t, bytes.HasPrefix(b, again))

		// The same bytes behind a header that verifies: the body's checksum alone is left to find them.
		h := appendHeader(nil, Header{1, 7, 1, 2, nil}, len(b), 0)
		require.Equal(t, len(b) == 0, len(readAll(t, append(h, b...), 1<<20)) > 0 || crcOf(b) == 0)
		good := appendFrame(nil, Header{1, 7, 1, 2, nil}, b)
		require.Equal(t, len(b) <= int(maxBody), bytes.HasPrefix(readAll(t, good, int(maxBody)), good))
	})
}

// readAll reads frames, and answers those that were good as appendFrame writes them.
func readAll(t *testing.T, b []byte, maxBody int) (again []byte) {
	r := &frameReader{r: bytes.NewReader(b), maxBody: maxBody}
	for {
		h, err := r.next()
		if err != nil {
			require.Equal(t, len(b) == len(again), errors.Is(err, io.EOF), "io.EOF between two frames, and nowhere else: %v", err)
			return again
		}
		require.NotZero(t, h.Kind)
		body, err := r.body(nil)
		if err != nil {
			require.NotErrorIs(t, err, io.EOF)
			return again
		}
		require.LessOrEqual(t, len(body), maxBody)
		again = appendFrame(again, h, body)
	}
}

// FuzzAnswer: whatever a peer sends in place of an answer, only a right trailer ends it well.
func FuzzAnswer(f *testing.F) {
	part := appendFrame(nil, Header{kindData, 7, 2, 1, nil}, []byte("part"))
	le := binary.LittleEndian
	trailer := le.AppendUint32(le.AppendUint32(le.AppendUint64(nil, 4), crcOf([]byte("part"))), 0)
	f.Add(appendFrame(bytes.Clone(part), Header{kindEnd, 7, 2, 1, nil}, trailer))
	f.Add(appendFrame(bytes.Clone(part), Header{kindFailed, 7, 2, 1, nil}, []byte("\x01\x00\x00\x00no")))
	f.Add(appendFrame(nil, Header{Kind: kindBye}, []byte("why\nnot")))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &answerReader{t: &Transport{}, addr: "peer", ctx: t.Context(), request: ask,
			c: &bulkConn{r: &frameReader{r: bytes.NewReader(b), maxBody: partBytes}}}
		var got []byte
		for {
			err := a.next()
			if err == nil {
				got = append(got, a.part...)
				continue
			}
			if errors.Is(err, errComplete) {
				require.Equal(t, uint64(len(got)), a.total)
				require.Equal(t, crcOf(got), a.crc)
			}
			return
		}
	})
}
