package telemetry

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// appendJSON appends the batch as one line of OTLP's JSON (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"):
// like protojson, but trace and span IDs are hexadecimal and enums are numbers; 64-bit integers are strings as there.
func appendJSON(dst []byte, b *batch) []byte {
	dst = append(dst, `{"resourceSpans":[{"resource":{"attributes":[`...)
	dst = appendAttrsJSON(dst, b.resource)
	dst = append(dst, `]},"scopeSpans":[{"scope":{"name":"`+scope+`"},"spans":[`...)
	first := true
	b.each(func(s *span) {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendSpanJSON(dst, s)
	})
	return append(dst, "]}]}]}\n"...)
}

func appendSpanJSON(dst []byte, s *span) []byte {
	dst = append(dst, '{')
	dst = appendRefJSON(dst, s.ref)
	if s.parent != 0 {
		dst = append(dst, `,"parentSpanId":"`...)
		dst = append(appendHex(dst, s.parent), '"')
	}
	dst = append(dst, `,"name":`...)
	dst = appendStringJSON(dst, s.name)
	dst = append(dst, `,"kind":`...)
	dst = strconv.AppendInt(dst, int64(s.kind()), 10)
	dst = append(dst, `,"startTimeUnixNano":"`...)
	dst = strconv.AppendInt(dst, s.start, 10)
	dst = append(dst, `","endTimeUnixNano":"`...)
	dst = strconv.AppendInt(dst, s.end, 10)
	dst = append(dst, '"')
	if len(s.attrs) > 0 {
		dst = append(dst, `,"attributes":[`...)
		dst = append(appendAttrsJSON(dst, s.attrs), ']')
	}
	if len(s.links) > 0 {
		dst = append(dst, `,"links":[`...)
		for i, link := range s.links {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendRefJSON(append(dst, '{'), link), '}')
		}
		dst = append(dst, ']')
	}
	if s.lostLinks > 0 {
		dst = append(dst, `,"droppedLinksCount":`...)
		dst = strconv.AppendInt(dst, int64(s.lostLinks), 10)
	}
	if s.failed {
		dst = append(dst, `,"status":{"code":2}`...)
	}
	return append(dst, '}')
}

func appendRefJSON(dst []byte, ref SpanRef) []byte {
	dst = append(dst, `"traceId":"`...)
	dst = appendHex(appendHex(dst, ref.traceHi), ref.traceLo)
	dst = append(dst, `","spanId":"`...)
	return append(appendHex(dst, ref.span), '"')
}

func appendHex(dst []byte, word uint64) []byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], word)
	return hex.AppendEncode(dst, b[:])
}

func appendAttrsJSON(dst []byte, attrs []attr) []byte {
	for i := range attrs {
		a := &attrs[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"key":`...)
		dst = appendStringJSON(dst, a.key)
		if a.isInt {
			dst = append(dst, `,"value":{"intValue":"`...)
			dst = strconv.AppendInt(dst, a.num, 10)
			dst = append(dst, `"}}`...)
			continue
		}
		dst = append(dst, `,"value":{"stringValue":`...)
		dst = append(appendStringJSON(dst, a.text), `}}`...)
	}
	return dst
}

func appendStringJSON(dst []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(text) // a string always marshals
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}
