package telemetry_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/telemetry"
)

func TestBadConfig(t *testing.T) {
	for message, cfg := range map[string]telemetry.Config{
		"Service is empty":                 {},
		`"udp" is unknown; write http/pro`: {Service: "s", Protocol: "udp"},
		`"localhost:4318" has no known`:    {Service: "s", Endpoint: "localhost:4318"},
		`"http://" names no host`:          {Service: "s", Endpoint: "http://"},
		`"file:" names no file`:            {Service: "s", Endpoint: "file:"},
		`contradicts protocol "http/json"`: {Service: "s", Endpoint: "grpc://h:1", Protocol: "http/json"},
		"negative":                         {Service: "s", RingSize: -1},
		"no such file or directory":        {Service: "s", Endpoint: "file:" + filepath.Join(t.TempDir(), "none", "f")},
		"read random seed":                 {Service: "s", Rand: strings.NewReader("short")},
	} {
		_, err := telemetry.New(cfg)
		require.ErrorContains(t, err, message)
	}
}

func TestSampling(t *testing.T) {
	for _, text := range []string{"every", "off", "slow:10ms", "ratio:0.25"} {
		s, err := telemetry.ParseSampling(text)
		require.NoError(t, err)
		require.Equal(t, text, s.String())
	}
	for _, text := range []string{"", "all", "slow", "slow:-1s", "slow:10", "ratio:2", "ratio:NaN", "ratio", "off:1"} {
		_, err := telemetry.ParseSampling(text)
		require.ErrorContains(t, err, "slow:DURATION", text)
	}
}

// TestSamplingKeeps counts what each mode lets through of fast, slow, failed and ordinarily failed requests.
func TestSamplingKeeps(t *testing.T) {
	for _, c := range []struct {
		sampling string
		kept     []string
	}{
		{"every", []string{"fast", "slow", "failed", "not found"}},
		{"slow:1ms", []string{"slow", "failed"}},
		{"ratio:0", []string{"failed"}},
		{"ratio:1", []string{"fast", "slow", "failed", "not found"}},
		{"off", nil},
	} {
		rc := newReceiver(t)
		var step, now time.Duration
		r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: rc.URL,
			Now: func() int64 { now += step; return int64(now) }})
		require.NoError(t, err)
		sampling, err := telemetry.ParseSampling(c.sampling)
		require.NoError(t, err)
		v := r.Volume("v", sampling)
		names := []string{"fast", "slow", "failed", "not found"}
		for i, errno := range []syscall.Errno{0, 0, syscall.EIO, syscall.ENOENT} {
			step = time.Microsecond
			if names[i] == "slow" {
				step = time.Millisecond
			}
			v.Begin(telemetry.OpLookup, uint64(i), 1).End(int32(errno))
		}
		closeNow(t, r)
		requireBooks(t, r)
		var kept []string
		for _, s := range rc.spans {
			kept = append(kept, names[attrs(s)["remora.fuse.unique"].(int64)])
		}
		require.Equal(t, c.kept, kept, c.sampling)
	}
}

func TestLogger(t *testing.T) {
	var b lockedBuffer
	log := telemetry.Logger(&b, telemetry.LogText, slog.LevelInfo)
	log.Debug("unseen")
	log.Info("no attributes")
	log.With("volume", "data-db-0").WithGroup("disk").Warn("two\nlines", "err", errors.New("no space"), "level", 3)
	log.Error("keys of its own", "msg", "m", "time", "t", "level", "l")
	var lines []string
	for line := range strings.Lines(b.String()) {
		stamp, rest, _ := strings.Cut(line, " ")
		_, err := time.Parse(time.RFC3339Nano, stamp)
		require.NoError(t, err)
		lines = append(lines, rest)
	}
	require.Equal(t, []string{
		"INFO  no attributes\n",
		`WARN  "two\nlines" volume=data-db-0 disk.err="no space" disk.level=3` + "\n",
		"ERROR keys of its own msg=m time=t level=l\n",
	}, lines)

	b = lockedBuffer{}
	telemetry.Logger(&b, telemetry.LogJSON, slog.LevelInfo).Info("x", "k", 1)
	require.Contains(t, b.String(), `"msg":"x","k":1}`)
	_, err := telemetry.ParseLogFormat("xml")
	require.ErrorContains(t, err, "text or json")
}
