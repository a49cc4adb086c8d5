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

// The modes of a sidecar: who makes its mounts.
const (
	ModeDev  = "dev"  // `remora dev`
	ModeNode = "node" // the node plugin, through the pod's socket
	// ModePrivileged is ModeNode with `remora hold` of the same container in the plugin's place.
	ModePrivileged = "privileged"
)

// Config of a sidecar. What the injector put into the pod, and nothing else.
type Config struct {
	Mode         string        // dev, node or privileged
	Pod          string        // name of the pod
	Namespace    string        // its namespace: the tenant
	PodUID       string        // of this instance of the pod
	Node         string        // name of the node
	Volumes      []spec.Volume // at least one; a keeper has none
	FSGroup      uint32        // the pod's; 0: none. See fsgroup.go
	Keeper       bool          // serve replicas of other pods' volumes, and nothing else
	Identity     string        // file:DIR: the certificate for the sidecars of other nodes; empty: this one serves volumes of one copy only
	Disks        string        // directory of the tenant's disk directories on this node
	Authority    string        // file:DIR or, in node mode, unix:PATH: where the Volume objects are
	Keys         string        // file:DIR or, in node mode, unix:PATH: where the volumes' keys are
	Holder       string        // unix:PATH of who holds the mounts
	Listen       string        // unix:PATH or HOST:PORT of /readyz, /status and /metrics
	OTLP         string        // endpoint for spans; empty: none
	NoResend     bool          // behave as on a kernel without FUSE_NOTIFY_RESEND; for tests
	SegmentBytes int64         // of a new journal; 0 means 16 MiB
	WitnessBytes int64         // of records that a witness keeps for a replica that is away; 0 means 256 MiB
	Logger       *slog.Logger  // required

	names map[string]string // of the Volume objects, by the pod's names, as the node plugin says; nil: <volume>-<pod>

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
	switch {
	case c.Keeper && len(c.Volumes) > 0:
		errs = append(errs, errors.New("--keeper and --volume: a keeper has no volumes of its own; leave one of the two out"))
	case c.Keeper && c.Mode != ModeDev:
		errs = append(errs, fmt.Errorf("--keeper with --mode %q; allowed: dev (keepers of a cluster come with a later release)", c.Mode))
	case c.Keeper && c.Identity == "":
		errs = append(errs, errors.New("--keeper needs --identity=file:DIR: without a certificate it cannot talk to other sidecars"))
	case !c.Keeper && len(c.Volumes) == 0:
		errs = append(errs, errors.New("--volume is missing: at least one is needed"))
	}
	where := "file:DIR"
	switch c.Mode {
	case ModeDev:
	case ModeNode, ModePrivileged:
		where = "unix:PATH"
		need("POD_UID", c.PodUID, "the pod's UID")
	default:
		errs = append(errs, fmt.Errorf("--mode %q; allowed: dev, node, privileged", c.Mode))
	}
	for _, f := range []struct{ flag, value, allowed string }{
		{"--authority", c.Authority, where}, {"--keys", c.Keys, where}, {"--holder", c.Holder, "unix:PATH"}, {"--identity", c.Identity, "file:DIR"},
	} {
		if f.value == "" && (f.flag == "--identity" || c.Keeper && f.flag == "--holder") {
			continue
		}
		if want := strings.TrimSuffix(f.allowed, "DIR"); !strings.HasPrefix(f.value, strings.TrimSuffix(want, "PATH")) {
			errs = append(errs, fmt.Errorf("%s %q; allowed: %s", f.flag, f.value, f.allowed))
		}
	}
	for _, v := range c.Volumes {
		if v.Replicas > 1 && c.Identity == "" {
			errs = append(errs, fmt.Errorf("--volume %s: replicas=%d needs --identity=file:DIR, and --mode dev; without: 1", v.Name, v.Replicas))
		}
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 16 << 20
	}
	c.fs, c.rand, c.now = disk.OS, rand.Reader, time.Now
	if !c.held() { // there the node plugin makes the directories, in a mount that is read-only itself
		errs = append(errs, writable(c.Disks))
	}
	return c, errors.Join(errs...)
}

// held tells whether mounts, Volume objects and keys come through the pod's socket.
func (c *Config) held() bool { return c.Mode == ModeNode || c.Mode == ModePrivileged }

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
func (c *Config) volumeName(v spec.Volume) string {
	if name, ok := c.names[v.Name]; ok {
		return name
	}
	return v.Name + "-" + c.Pod
}

// diskPath is the path of a disk directory by its name.
func (c *Config) diskPath(name string) string { return filepath.Join(c.Disks, name) }
