package telemetry

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// openSink chooses by the endpoint's scheme, then by the protocol. cfg is valid.
func openSink(cfg Config) (sink, error) {
	if path, ok := strings.CutPrefix(cfg.Endpoint, "file:"); ok {
		return openFileSink(path, cfg.FileSize)
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	protocol := cfg.Protocol
	switch u.Scheme {
	case "grpc":
		protocol, u.Scheme = ProtocolGRPC, "http"
	case "grpcs":
		protocol, u.Scheme = ProtocolGRPC, "https"
	}
	s := &httpSink{headers: cfg.Headers}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: 90 * time.Second}
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	transport.Protocols.SetHTTP2(true)
	s.client = &http.Client{Transport: transport}
	if protocol == ProtocolGRPC {
		transport.Protocols.SetHTTP1(false)
		transport.Protocols.SetUnencryptedHTTP2(true)
		s.url = u.Scheme + "://" + u.Host + "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
		return &grpcSink{s}, nil
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1/traces") + "/v1/traces"
	s.url = u.String()
	s.json = protocol == ProtocolJSON
	return s, nil
}

// endpointForLog leaves out a password in the URL.
func endpointForLog(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil {
		return u.Redacted()
	}
	return endpoint
}

// httpSink is OTLP over HTTP: one POST a batch.
type httpSink struct {
	client  *http.Client
	url     string
	headers map[string]string
	json    bool
}

func (s *httpSink) encode(dst []byte, b *batch) []byte {
	if s.json {
		return appendJSON(dst, b)
	}
	return appendProto(dst, b)
}

// maxAnswer bounds what is read of a receiver's answer.
const maxAnswer = 64 << 10

func (s *httpSink) send(ctx context.Context, payload []byte) (rejected uint64, err error) {
	contentType := "application/x-protobuf"
	if s.json {
		contentType = "application/json"
	}
	answer, body, err := s.post(ctx, contentType, payload)
	if err != nil {
		return 0, err
	}
	if answer.StatusCode/100 == 2 {
		if s.json {
			return 0, nil
		}
		return rejectedSpans(body), nil
	}
	reason := fmt.Sprintf("POST %s: %s", endpointForLog(s.url), answer.Status)
	switch answer.StatusCode { // the statuses that OTLP calls retryable
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // a date, or none: the usual pause
		return 0, &retryError{reason, time.Duration(max(seconds, 0)) * time.Second}
	}
	return 0, &refusedError{reason}
}

func (s *httpSink) post(ctx context.Context, contentType string, payload []byte) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(payload))
	if err != nil {
		return nil, nil, err
	}
	for name, value := range s.headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", contentType)
	if contentType == grpcContentType {
		request.Header.Set("TE", "trailers")
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("read answer of %s: %w", endpointForLog(s.url), err)
	}
	return answer, body, nil
}

func (s *httpSink) close() error {
	s.client.CloseIdleConnections()
	return nil
}

// grpcSink is OTLP over gRPC. One unary call without compression is one HTTP/2 POST of five bytes and the message
// (grpc/doc/PROTOCOL-HTTP2.md), so that a sidecar needs no gRPC library in its memory for it.
type grpcSink struct{ *httpSink }

const (
	grpcContentType = "application/grpc+proto"
	grpcPrefix      = 5 // uncompressed (0), then the length in four bytes
)

func (s *grpcSink) encode(dst []byte, b *batch) []byte {
	dst = appendProto(append(dst, make([]byte, grpcPrefix)...), b)
	binary.BigEndian.PutUint32(dst[1:], uint32(len(dst)-grpcPrefix))
	return dst
}

func (s *grpcSink) send(ctx context.Context, payload []byte) (rejected uint64, err error) {
	answer, body, err := s.post(ctx, grpcContentType, payload)
	if err != nil {
		return 0, err
	}
	if answer.StatusCode != http.StatusOK {
		return 0, &retryError{reason: fmt.Sprintf("POST %s: %s", endpointForLog(s.url), answer.Status)}
	}
	trailer := answer.Trailer
	if trailer.Get("Grpc-Status") == "" {
		trailer = answer.Header // an answer without a message has its status there
	}
	code := trailer.Get("Grpc-Status")
	reason := fmt.Sprintf("export to %s: gRPC status %s %s", endpointForLog(s.url), code, trailer.Get("Grpc-Message"))
	switch code {
	case "0":
		return rejectedSpans(body[min(grpcPrefix, len(body)):]), nil
	case "", "1", "4", "8", "10", "11", "14", "15": // none, CANCELLED, DEADLINE_EXCEEDED ... as OTLP lists them
		return 0, &retryError{reason: reason}
	}
	return 0, &refusedError{reason}
}
