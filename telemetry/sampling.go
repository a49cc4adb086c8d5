package telemetry

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// SamplingMode says which requests of a volume become spans. The decision falls at the end of a request, so it can
// look at the result.
type SamplingMode uint8

const (
	SampleEvery SamplingMode = iota // every request
	SampleSlow                      // requests that took at least Slow, and unexpected errors
	SampleRatio                     // a share of all requests, chosen by trace ID, and unexpected errors
	SampleOff                       // none; the metrics still count every request
)

// Sampling is the rule of one volume. The zero value keeps every request.
type Sampling struct {
	Mode  SamplingMode
	Slow  time.Duration // SampleSlow: the shortest request that is kept
	Ratio float64       // SampleRatio: 0 to 1
}

const samplingForms = `"every", "off", "slow:DURATION" like slow:10ms, or "ratio:SHARE" like ratio:0.01`

// ParseSampling reads what String writes: "every", "off", "slow:10ms", "ratio:0.01".
func ParseSampling(text string) (Sampling, error) {
	bad := func(why string) (Sampling, error) {
		return Sampling{}, fmt.Errorf("sampling %q: %s; write %s", text, why, samplingForms)
	}
	mode, arg, hasArg := strings.Cut(text, ":")
	switch mode {
	case "every", "off":
		if hasArg {
			return bad("takes no value")
		}
		if mode == "off" {
			return Sampling{Mode: SampleOff}, nil
		}
		return Sampling{}, nil
	case "slow":
		d, err := time.ParseDuration(arg)
		if err != nil || d <= 0 {
			return bad("needs a duration above zero")
		}
		return Sampling{Mode: SampleSlow, Slow: d}, nil
	case "ratio":
		f, err := strconv.ParseFloat(arg, 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return bad("needs a number from 0 to 1")
		}
		return Sampling{Mode: SampleRatio, Ratio: f}, nil
	}
	return bad("unknown mode")
}

// String is the form that ParseSampling reads.
func (s Sampling) String() string {
	switch s.Mode {
	case SampleSlow:
		return "slow:" + s.Slow.String()
	case SampleRatio:
		return "ratio:" + strconv.FormatFloat(s.Ratio, 'g', -1, 64)
	case SampleOff:
		return "off"
	}
	return "every"
}

// keep decides about a span of the given trace, in the middle of the I/O path.
func (s *Sampling) keep(traceLo uint64, duration int64, failed bool) bool {
	switch s.Mode {
	case SampleEvery:
		return true
	case SampleSlow:
		return failed || duration >= int64(s.Slow)
	case SampleRatio:
		// The top 53 bits of a uniform number are a uniform float, so the comparison is exact for 0 and 1.
		return failed || float64(traceLo>>11) < s.Ratio*math.Exp2(53)
	}
	return false
}
