package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// requests are FUSE requests by operation, as the sidecars have counted them since they started. The kernel may have more to ask
// when a call has returned (RELEASE, FORGET), so they are read until they rest.
type requests map[string]float64

// counted reads the requests that were made on a side; nil for one that nobody serves.
func (b *bench) counted(ctx context.Context, s side) (requests, error) {
	if s.metrics == nil {
		return nil, nil
	}
	var last requests
	for deadline := time.Now().Add(10 * time.Second); ; {
		now, err := s.metrics(ctx)
		if err != nil {
			return nil, err
		}
		if last != nil && maps.Equal(last, now) {
			return now, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.New("requests: the counters of the sidecar do not rest; somebody else uses the volume")
		}
		last = now
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// RequestRow says what one operation of an application costs: FUSE requests, by operation of the protocol.
type RequestRow struct {
	Operation string             `json:"operation"`
	Requests  float64            `json:"requests"`
	ByOp      map[string]float64 `json:"byOp"`
}

// counting counts what do causes, the first time that it is asked for this title on a side that counts.
func (b *bench) counting(ctx context.Context, s side, title string, do func() (operations float64, err error)) error {
	before, err := b.counted(ctx, s)
	if err != nil {
		return err
	}
	operations, err := do()
	known := slices.ContainsFunc(b.requests, func(r RequestRow) bool { return r.Operation == title })
	if err != nil || before == nil || title == "" || known {
		return err
	}
	after, err := b.counted(ctx, s)
	if err != nil {
		return err
	}
	b.requests = append(b.requests, after.row(before, title, operations))
	return nil
}

// row is what was asked since before, for one operation of the application each.
func (r requests) row(before requests, title string, operations float64) RequestRow {
	row := RequestRow{Operation: title, ByOp: map[string]float64{}}
	for op, n := range r {
		if n > before[op] {
			row.ByOp[op] = (n - before[op]) / operations
			row.Requests += row.ByOp[op]
		}
	}
	return row
}

// which is ByOp on one line, the most frequent first, without what happened less than once in 200 operations.
func (r RequestRow) which() string {
	ops := slices.SortedFunc(maps.Keys(r.ByOp), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.ByOp[b], r.ByOp[a]), cmp.Compare(a, b))
	})
	var words []string
	for _, op := range ops {
		if r.ByOp[op] >= 0.005 {
			words = append(words, fmt.Sprintf("%s %.2f", op, r.ByOp[op]))
		}
	}
	return strings.Join(words, ", ")
}

// requestCount is the counter of requests in a sidecar's metrics: the histogram of their durations has one.
const requestCount = "remora_fuse_request_duration_seconds_count{"

// requests asks every sidecar's /metrics.
func (r *rig) requests(ctx context.Context) (requests, error) {
	st, err := r.status(ctx)
	if err != nil {
		return nil, err
	}
	sum := requests{}
	for _, pod := range st.Pods {
		if pod.PID == nil {
			continue
		}
		text, err := r.get(ctx, pod.Name, "/metrics")
		if err != nil {
			return nil, fmt.Errorf("metrics of pod %s: %w", pod.Name, err)
		}
		if err := sum.add(text); err != nil {
			return nil, fmt.Errorf("metrics of pod %s: %w", pod.Name, err)
		}
	}
	if len(sum) == 0 {
		return nil, errors.New("metrics: no sidecar counts requests")
	}
	return sum, nil
}

// add reads Prometheus's text form.
func (r requests) add(text string) error {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), requestCount)
		if !ok {
			continue
		}
		labels, value, ok := strings.Cut(rest, "} ")
		_, op, found := strings.Cut(labels, `op="`)
		op, _, closed := strings.Cut(op, `"`)
		n, err := strconv.ParseFloat(value, 64)
		if !ok || !found || !closed || err != nil {
			return fmt.Errorf("unreadable line %q", lines.Text())
		}
		r[op] += n
	}
	return lines.Err()
}

// get asks a sidecar over its socket. It is dialled below a descriptor of its directory: a socket's path holds 108 bytes at most.
func (r *rig) get(ctx context.Context, pod, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	dir, err := os.Open(filepath.Join(r.dir, "run", pod))
	if err != nil {
		return "", err
	}
	defer func() { _ = dir.Close() }()
	socket := fmt.Sprintf("/proc/self/fd/%d/sidecar.sock", dir.Fd())
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sidecar"+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return string(text), err
}
