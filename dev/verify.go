package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
)

// Verdict is what a sidecar answers on /verify.
type Verdict struct {
	Index    uint64          `json:"index"` // position in the volume's log
	Same     bool            `json:"same"`
	Replicas []ReplicaDigest `json:"replicas"`
}

// ReplicaDigest is one replica's part of a Verdict.
type ReplicaDigest struct {
	Replica  string    `json:"replica"`
	Digest   string    `json:"digest,omitempty"`
	Err      string    `json:"error,omitempty"`
	Scrubbed *Scrubbed `json:"scrubbed,omitempty"` // nil: that was not asked for
}

// Scrubbed is what a scrub of a replica did.
type Scrubbed struct {
	Bytes  int64 `json:"bytes"`  // read
	Bad    int64 `json:"bad"`    // blocks of 4 KiB
	Healed int64 `json:"healed"` // of these
}

// Verify has the replicas of a Volume of a running remora dev compared, by the first process of those that serve one which answers.
func Verify(ctx context.Context, dir, volume string, scrub bool) (Verdict, error) {
	var v Verdict
	report, err := Status(ctx, dir)
	if err != nil {
		return v, err
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return v, fmt.Errorf("--dir %s: %w", dir, err)
	}
	query := url.Values{"volume": {volume}}
	if scrub {
		query.Set("scrub", "1")
	}
	var tried []error
	for _, pod := range report.Pods {
		for _, h := range pod.Hosted {
			if h.Volume != volume {
				continue
			}
			var b bytes.Buffer
			err := call(ctx, layout(abs).sidecar(pod.Name), http.MethodGet, "/verify?"+query.Encode(), &b)
			if err == nil {
				return v, json.Unmarshal(b.Bytes(), &v)
			}
			tried = append(tried, fmt.Errorf("%s: %w", pod.Name, err))
		}
	}
	if len(tried) == 0 {
		return v, errors.New("no running process serves a replica of it with peers: want the name of a volume of class replicated, as remora status prints it")
	}
	return v, errors.Join(tried...)
}
