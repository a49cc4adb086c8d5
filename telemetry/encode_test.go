package telemetry

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func randomBatch(rnd *rand.Rand) *batch {
	b := &batch{
		resource: []attr{{key: "service.name", text: "s"}, {key: "empty"}, {key: "odd", text: "\"é\\\n\x00<"}},
		volumes:  []string{"data-db-0", ""}, skew: rnd.Int64N(5),
	}
	for range rnd.IntN(20) {
		rec := record{
			ref:   SpanRef{rnd.Uint64(), rnd.Uint64(), rnd.Uint64()},
			start: rnd.Int64(), end: rnd.Int64(), inode: rnd.Uint64N(3), unique: rnd.Uint64(), epoch: rnd.Uint64(),
			seq: rnd.Uint64N(2) * rnd.Uint64(), offset: rnd.Int64() - math.MaxInt64/2, length: rnd.Int64(),
			volume: rnd.Uint32N(2), errno: rnd.Int32N(maxErrno+2) - 1,
			kind: recordKind(rnd.UintN(2)), op: Op(rnd.UintN(uint(numOps))), ranged: rnd.UintN(2) == 0,
			stages: uint8(rnd.UintN(maxStages + 1)), links: uint8(rnd.UintN(maxLinks + 1)), lostLinks: uint8(rnd.UintN(3)),
		}
		if rec.kind == kindCommit {
			rec.stages = 0
		}
		for i := range rec.stages {
			rec.stageName[i] = Stage(rnd.UintN(uint(numStages) + 1))
			rec.stageStart[i], rec.stageEnd[i] = rnd.Int64(), rnd.Int64()
		}
		for i := range rec.links {
			rec.link[i] = SpanRef{rnd.Uint64(), rnd.Uint64(), rnd.Uint64()}
		}
		b.records = append(b.records, rec)
	}
	return b
}

// TestEncodersAgree reads both encodings with the generated types, which must find the same, and no field unknown.
func TestEncodersAgree(t *testing.T) {
	for seed := range uint64(200) {
		b := randomBatch(rand.New(rand.NewPCG(seed, 0)))
		prefix := []byte("prefix")
		wire := appendProto(prefix, b)[len(prefix):]
		var fromProto, fromJSON trace.TracesData
		require.NoError(t, proto.Unmarshal(wire, &fromProto), "seed %d", seed)
		canonical, err := proto.MarshalOptions{Deterministic: true}.Marshal(&fromProto)
		require.NoError(t, err)
		require.Len(t, wire, len(canonical), "seed %d", seed)

		line := appendJSON(nil, b)
		require.Equal(t, 1, bytes.Count(line, []byte("\n")), "one line")
		require.NoError(t, protojson.Unmarshal(toProtoJSON(t, line), &fromJSON), "seed %d", seed)
		require.True(t, proto.Equal(&fromProto, &fromJSON), "seed %d:\n%v\n%v", seed, &fromProto, &fromJSON)

		var spans uint64
		for i := range b.records {
			spans += b.records[i].spans()
		}
		require.Len(t, fromProto.ResourceSpans[0].ScopeSpans[0].Spans, int(spans), "seed %d", seed)
	}
}

// toProtoJSON turns the hexadecimal IDs of OTLP JSON into the base64 of protojson; the rest is the same.
func toProtoJSON(t *testing.T, line []byte) []byte {
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&tree), "%s", line)
	var walk func(any)
	walk = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				walk(child)
			}
		case map[string]any:
			for key, child := range node {
				if key == "traceId" || key == "spanId" || key == "parentSpanId" {
					raw, err := hex.DecodeString(child.(string))
					require.NoError(t, err)
					node[key] = base64.StdEncoding.EncodeToString(raw)
				}
				walk(child)
			}
		}
	}
	walk(tree)
	out, err := json.Marshal(tree)
	require.NoError(t, err)
	return out
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		op     Op
		errno  syscall.Errno
		failed bool
	}{
		{OpLookup, syscall.ENOENT, false}, {OpGetxattr, syscall.ENODATA, false}, {OpWrite, syscall.EIO, true},
		{OpUnlink, syscall.ENOENT, true}, {OpLookup, syscall.EIO, true}, {OpWrite, 0, false},
		{OpSyncfs, syscall.ENOSYS, false}, {OpWrite, syscall.ENOSPC, true},
	} {
		var s span
		b := batch{volumes: []string{"v"}}
		b.expand(&record{op: c.op, errno: int32(c.errno)}, &s)
		require.Equal(t, c.failed, s.failed, "%v %v", c.op, c.errno)
		if last := s.attrs[len(s.attrs)-1]; c.errno != 0 {
			require.Equal(t, attr{key: "error.type", text: errnoName(int32(c.errno))}, last)
		}
	}
	require.Equal(t, "EIO", errnoName(5))
	require.Equal(t, "_OTHER", errnoName(-1))
	require.Equal(t, "_OTHER", errnoName(5000))
}

func FuzzRejectedSpans(f *testing.F) {
	partial := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7)
	golden := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial)
	require.EqualValues(f, 7, rejectedSpans(golden))
	require.Zero(f, rejectedSpans(nil))
	f.Add(golden)
	f.Add([]byte{0x0a, 0x02, 0x08})
	f.Fuzz(func(t *testing.T, b []byte) { rejectedSpans(b) })
}

func BenchmarkEncode(b *testing.B) {
	rec := record{ref: SpanRef{1 << 60, 2, 3}, start: 17e17, end: 17e17 + 5000, inode: 42, unique: 8, epoch: 1, seq: 9,
		offset: 4096, length: 4096, op: OpWrite, ranged: true, stages: 2, stageName: [maxStages]Stage{StageOverlay, StageJournal}}
	in := &batch{volumes: []string{"data-db-0"}}
	for range 512 {
		in.records = append(in.records, rec)
	}
	for name, encode := range map[string]func([]byte, *batch) []byte{"proto": appendProto, "json": appendJSON} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst = encode(dst[:0], in)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(3*512), "ns/span")
			b.ReportMetric(float64(len(dst))/(3*512), "B/span")
		})
	}
}
