package telemetry

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The protocols of Config.Protocol, with the names of OTEL_EXPORTER_OTLP_PROTOCOL.
const (
	ProtocolHTTP = "http/protobuf"
	ProtocolJSON = "http/json"
	ProtocolGRPC = "grpc"
)

// Config is what a Recorder needs. Only Service is required.
type Config struct {
	Service  string            // service.name of every span
	Resource map[string]string // further resource attributes: k8s.pod.name, k8s.namespace.name

	// Endpoint says where spans go:
	//	""                     nowhere; the metrics count all the same
	//	http://HOST:PORT       OTLP over HTTP, to /v1/traces below it; https:// too
	//	grpc://HOST:PORT       OTLP over gRPC without TLS; grpcs:// with
	//	file:PATH              one OTLP JSON line a batch, appended to the file
	Endpoint string
	Protocol string            // for http:// and https://: a Protocol constant; "" is http/protobuf
	Headers  map[string]string // sent with each export, such as Authorization
	FileSize int64             // file: bytes after which PATH becomes PATH.1; 0 is 64 MiB

	RingSize   int           // requests that wait for export at most; 0 is 32768 (a record has about 300 bytes)
	BatchSize  int           // requests in one export at most; 0 is 512
	FlushEvery time.Duration // a request waits no longer than this for its batch; 0 is 1 s
	Timeout    time.Duration // of one export; 0 is 10 s
	RetryAfter time.Duration // the first pause after a failed export, doubled up to 50 times this; 0 is 100 ms

	Logger   *slog.Logger         // nil discards
	Now      func() int64         // unix nanoseconds; nil is the function Now, corrected to the wall clock
	Rand     io.Reader            // seeds the span IDs with 24 bytes; nil is crypto/rand
	Registry *prometheus.Registry // nil makes one, with Go's and the process's own metrics in it
}

func (c Config) withDefaults() Config {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	setDuration := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	set(&c.RingSize, 32768)
	set(&c.BatchSize, 512)
	setDuration(&c.FlushEvery, time.Second)
	setDuration(&c.Timeout, 10*time.Second)
	setDuration(&c.RetryAfter, 100*time.Millisecond)
	c.BatchSize = min(c.BatchSize, c.RingSize)
	if c.FileSize == 0 {
		c.FileSize = 64 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c
}

const endpointForms = `write http://HOST:4318, https://HOST:4318, grpc://HOST:4317, grpcs://HOST:4317, file:PATH, or nothing to switch export off`

func (c Config) validate() error {
	if c.Service == "" {
		return fmt.Errorf("telemetry: Service is empty; it names the program in every span, such as remora-sidecar")
	}
	if c.RingSize < 0 || c.BatchSize < 0 || c.FlushEvery < 0 || c.Timeout < 0 || c.RetryAfter < 0 || c.FileSize < 0 {
		return fmt.Errorf("telemetry: a size or time of the configuration is negative; 0 is the default")
	}
	switch c.Protocol {
	case "", ProtocolHTTP, ProtocolJSON, ProtocolGRPC:
	default:
		return fmt.Errorf("telemetry: OTLP protocol %q is unknown; write %s, %s or %s",
			c.Protocol, ProtocolHTTP, ProtocolJSON, ProtocolGRPC)
	}
	if c.Endpoint == "" {
		return nil
	}
	if path, ok := strings.CutPrefix(c.Endpoint, "file:"); ok {
		if path == "" {
			return fmt.Errorf("telemetry: endpoint %q names no file; write file:PATH", c.Endpoint)
		}
		return nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return fmt.Errorf("telemetry: endpoint %q is not a URL (%w); %s", c.Endpoint, err, endpointForms)
	}
	switch u.Scheme {
	case "http", "https":
	case "grpc", "grpcs":
		if c.Protocol != "" && c.Protocol != ProtocolGRPC {
			return fmt.Errorf("telemetry: endpoint %q contradicts protocol %q; leave the protocol empty or write %s",
				c.Endpoint, c.Protocol, ProtocolGRPC)
		}
	default:
		return fmt.Errorf("telemetry: endpoint %q has no known scheme; %s", c.Endpoint, endpointForms)
	}
	if u.Host == "" {
		return fmt.Errorf("telemetry: endpoint %q names no host; %s", c.Endpoint, endpointForms)
	}
	return nil
}
