package spec

import (
	"fmt"
	"strconv"
	"strings"
)

// TraceKind is how the I/Os that are traced are chosen.
type TraceKind string

// The kinds of traces.
const (
	TraceEvery TraceKind = "every"
	TraceSlow  TraceKind = "slow"
	TraceOff   TraceKind = "off"
	TraceRatio TraceKind = "ratio"
)

const traceAllowed = `every, slow, off, or ratio:R with R above 0 and at most 1`

func traceKinds() []string {
	return []string{string(TraceEvery), string(TraceSlow), string(TraceOff), string(TraceRatio)}
}

// Trace is which I/Os of a volume are traced. Parse and String round-trip; the zero Trace is not valid.
type Trace struct {
	Kind TraceKind
	// Ratio is the share of I/Os, above 0 and at most 1, for TraceRatio; otherwise 0.
	Ratio float64
}

// ParseTrace reads "every", "slow", "off" or "ratio:R".
func ParseTrace(s string) (Trace, error) {
	switch kind := TraceKind(s); kind {
	case TraceEvery, TraceSlow, TraceOff:
		return Trace{Kind: kind}, nil
	}
	if text, ok := strings.CutPrefix(s, string(TraceRatio)+":"); ok {
		if r, err := strconv.ParseFloat(text, 64); err == nil && r > 0 && r <= 1 && isDecimal(text) {
			return Trace{Kind: TraceRatio, Ratio: r}, nil
		}
	}
	return Trace{}, fmt.Errorf("trace %s; allowed: %s", Quote(s), traceAllowed)
}

// isDecimal keeps out the spellings of ParseFloat that nobody means, such as 0x1p-4 and 1_0.
func isDecimal(s string) bool { return strings.Trim(s, "0123456789.e-") == "" }

// String is what ParseTrace reads.
func (t Trace) String() string {
	if t.Kind == TraceRatio {
		return "ratio:" + strconv.FormatFloat(t.Ratio, 'g', -1, 64)
	}
	return string(t.Kind)
}
