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
	"slices"
	"strings"

	"github.com/remora-storage/remora/sidecar/status"
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
	var tried []error
	for _, pod := range report.Pods {
		for _, h := range pod.Hosted {
			if tenant(&pod)+h.Volume != volume {
				continue
			}
			query := url.Values{"volume": {h.Volume}}
			if scrub {
				query.Set("scrub", "1")
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
		return v, nobodyServes(&report, volume)
	}
	return v, errors.Join(tried...)
}

// nobodyServes says why no process can be asked: the volume has one copy, or its processes are down, or there is none of this name.
func nobodyServes(report *status.Report, volume string) error {
	var known []string
	for _, p := range report.Pods {
		for _, h := range p.Hosted {
			known = append(known, tenant(&p)+h.Volume)
		}
		for _, v := range p.Volumes {
			switch known = append(known, tenant(&p)+v.Volume); {
			case tenant(&p)+v.Volume != volume:
			case len(v.Replicas) < 2:
				return fmt.Errorf("it has one copy, so there is nothing to compare; `remora check` verifies what nobody serves, and `remora dev replicas %s 3` gives it three", volume)
			default:
				return fmt.Errorf("none of its replicas is served now (it is %s): see remora status", v.State)
			}
		}
	}
	slices.Sort(known)
	return fmt.Errorf("%w %q; there are: %s", errUnknownVolume, volume, strings.Join(slices.Compact(known), ", "))
}
