// Package sidecar is the process in the pod: it puts the parts together, opens the pod's volumes, serves them, and lets go in order.
// It promises that a volume that exists is never created again, that no request is answered before the volume's owner is known to
// its log, and that it ends as soon as nobody holds its mounts any more.
package sidecar

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/webhook/spec"
)

// Config of a sidecar. What the injector put into the pod, and nothing else.
type Config struct {
	Mode         string        // dev or privileged
	Pod          string        // name of the pod
	Namespace    string        // its namespace: the tenant
	PodUID       string        // of this instance of the pod
	Node         string        // name of the node
	Volumes      []spec.Volume // at least one
	Disks        string        // directory of the tenant's disk directories on this node
	Authority    string        // file:DIR: where the Volume objects are
	Keys         string        // file:DIR: where the volumes' keys are
	Holder       string        // unix:PATH of who holds the mounts
	Listen       string        // unix:PATH or HOST:PORT of /readyz, /status and /metrics
	OTLP         string        // endpoint for spans; empty: none
	NoResend     bool          // behave as on a kernel without FUSE_NOTIFY_RESEND; for tests
	SegmentBytes int64         // of a new journal; 0 means 16 MiB
	Logger       *slog.Logger  // required

	fs   disk.FS
	rand io.Reader
	now  func() time.Time
}

// withDefaults checks a Config and fills what is empty.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	need := func(flag, value, what string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s is missing: %s; the injector sets it (`remora inject`)", flag, what))
		}
	}
	need("POD_NAME", c.Pod, "the pod's name")
	need("POD_NAMESPACE", c.Namespace, "the pod's namespace")
	need("NODE_NAME", c.Node, "the node's name")
	need("--disks", c.Disks, "directory of the tenant's disks")
	if len(c.Volumes) == 0 {
		errs = append(errs, errors.New("--volume is missing: at least one is needed"))
	}
	if c.Mode != "dev" {
		errs = append(errs, fmt.Errorf("--mode %q cannot run yet; allowed: dev (a cluster's modes come with a later release)", c.Mode))
	}
	if !strings.HasPrefix(c.Authority, "file:") {
		errs = append(errs, fmt.Errorf("--authority %q; allowed: file:DIR", c.Authority))
	}
	if !strings.HasPrefix(c.Holder, "unix:") {
		errs = append(errs, fmt.Errorf("--holder %q; allowed: unix:PATH", c.Holder))
	}
	if !strings.HasPrefix(c.Keys, "file:") {
		errs = append(errs, fmt.Errorf("--keys %q; allowed: file:DIR", c.Keys))
	}
	for _, v := range c.Volumes {
		if v.Replicas != 1 {
			errs = append(errs, fmt.Errorf("--volume %s: replicas=%d; allowed: 1 (more come with a later release)", v.Name, v.Replicas))
		}
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 16 << 20
	}
	c.fs, c.rand, c.now = disk.OS, rand.Reader, time.Now
	return c, errors.Join(append(errs, writable(c.Disks))...)
}

// writable refuses a directory in which nothing can be made, before anything is.
func writable(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--disks %s: cannot be made: %w", dir, err)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("--disks %s: is not writable by uid %d: %w", dir, os.Getuid(), err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// volumeName is the Volume object's name of a pod's volume.
func (c *Config) volumeName(v spec.Volume) string { return v.Name + "-" + c.Pod }

// diskPath is the path of a disk directory by its name.
func (c *Config) diskPath(name string) string { return filepath.Join(c.Disks, name) }
