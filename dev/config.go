// Package dev is `remora dev`: it plays kubelet and API server for injected manifests on one machine, without Kubernetes.
//
// It promises the shape of a cluster, not its breadth: pods of a StatefulSet start one after another, each sidecar is a process
// of its own that is restarted when it dies, nodes are directories, and a second start on the same directory finds the data
// again. It starts no application containers: the developer's own programs use the mounts.
//
// The path of a pod, from manifest to mount:
//
//  1. expand turns workloads into pods, place gives each a node that it keeps across starts of dev.
//  2. pod.start makes an instance: a pod UID, one FUSE mount per volume (package holder), and the holder's socket.
//  3. instance.loop runs the sidecar: the command of the injected container, its paths mapped into DIR (container.go). It
//     attaches to the socket and serves. When it dies, the mounts wait and the loop starts it again; instance.watch ends the wait
//     when the hang budget is used up. An upgrade is a death that somebody asked for (upgrade.go).
//  4. The instance is ready when every volume is served and /readyz says so; only then the next pod of a StatefulSet starts.
//  5. Stopping has three steps over all pods, in this order: unmount while the sidecars still answer, so that what programs
//     wrote by mmap arrives; SIGTERM, so that sidecars make everything durable; abort and detach, so that nothing stays behind.
//
// Invariants: one supervisor per DIR (flock). The supervisor never looks at anything below its mounts, since that would hang
// when nobody serves. No sidecar outlives the supervisor: the kernel kills it (PDEATHSIG), and its holder connection closes. No
// mount outlives it for long: the next start clears what a SIGKILL left.
//
// Lock order: supervisor.failing, pod.life, keepers.handover, supervisor.changing, pod.mu, instance.mu, keepers.mu, supervisor.mu.
package dev

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/remora-storage/remora/webhook"
)

// Config is what `remora dev` needs to run.
type Config struct {
	Workloads   []webhook.Workload                 // after injection, in the order of the manifests
	Dir         string                             // where everything is kept; made if missing
	ReadyFile   string                             // written when every mount serves; empty: none
	Nodes       int                                // simulated nodes; zero: one per pod
	OTLP        string                             // where sidecars send spans; empty: one file of JSON lines per pod, DIR/traces/<pod>.jsonl
	Program     string                             // the remora binary that runs as sidecar; empty: this one
	SidecarArgs []string                           // more arguments for every sidecar; for tests
	HangBudget  time.Duration                      // how long a volume may go unserved before its connection is aborted; zero: for ever
	Reload      func() ([]webhook.Workload, error) // reads the manifests again, for restart-pod and upgrade; nil: they never change
	Command     string                             // how the user calls remora, for the text; empty: remora
	Log         *slog.Logger                       // the supervisor's own log
	Console     io.Writer                          // gets the sidecars' output, line by line
	Out         io.Writer                          // gets the text for the user
}

func (c Config) validate() error {
	if os.Geteuid() != 0 {
		return errors.New("remora dev mounts file systems and needs root; run it with sudo")
	}
	if c.Dir == "" {
		return errors.New("--dir is empty; name a directory, for example --dir ./.remora-dev")
	}
	if c.Nodes < 0 {
		return fmt.Errorf("--nodes %d: must be 1 or more, or 0 for one node per pod", c.Nodes)
	}
	if c.HangBudget < 0 {
		return fmt.Errorf("--hang-budget %v: must be positive, for example 30s, or 0 to wait for ever", c.HangBudget)
	}
	if c.OTLP != "" {
		if u, err := url.Parse(c.OTLP); err != nil || !strings.Contains(" http https grpc grpcs file ", " "+u.Scheme+" ") {
			return fmt.Errorf("--otlp-endpoint %q: must be http://HOST:4318, https://HOST:4318, grpc://HOST:4317, grpcs://HOST:4317 or file:PATH", c.OTLP)
		}
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("/dev/fuse is needed (load the kernel module with: modprobe fuse): %w", err)
	}
	return nil
}
