package webhook

import (
	"fmt"
	"slices"
	"strings"
)

// Mode is how a pod's volumes are mounted.
type Mode string

// The modes.
const (
	// Node: the node plugin (CSI driver remora.dev) mounts, keeps the descriptors and hands out disk directories; the sidecar
	// has no privileges, and the other containers do not change.
	Node Mode = "node"
	// Privileged: for clusters without the node plugin. The sidecar's container is privileged and does the plugin's work for its own pod.
	Privileged Mode = "privileged"
	// Dev: `remora dev` mounts; the sidecar is a process and the manifest never sees a cluster.
	Dev Mode = "dev"
)

// Modes lists the modes by name.
func Modes() []string { return []string{string(Node), string(Privileged), string(Dev)} }

// ParseMode reads the name of a mode.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Node, Privileged, Dev:
		return m, nil
	}
	return "", fmt.Errorf("mode %q; allowed: %s", s, strings.Join(Modes(), ", "))
}

// DefaultImage is the sidecar's image where Config names none.
const DefaultImage = "remora-storage/remora:0.1.0"

// Config is what the administrator decides about every sidecar.
type Config struct {
	// Image of the sidecar. Empty means DefaultImage.
	Image string
	// OTLPEndpoint is where sidecars send traces, a URL. Empty means that they send none.
	OTLPEndpoint string
	// Revision is the name of an injector beside the default one, a canary's for example; the status annotation carries it.
	Revision string
	// Root is the nodes' folder of disk directories in privileged mode. Empty means DefaultRoot.
	Root string
	// AllowedImages are images besides Image that a sidecar may be changed to while its pod runs: names, or prefixes before a *.
	AllowedImages []string
}

// Allows says whether a sidecar may have that image.
func (c Config) Allows(image string) bool {
	if image == c.image() {
		return true
	}
	return slices.ContainsFunc(c.AllowedImages, func(allowed string) bool {
		prefix, any := strings.CutSuffix(allowed, "*")
		return image == allowed || any && strings.HasPrefix(image, prefix)
	})
}

func (c Config) image() string {
	if c.Image == "" {
		return DefaultImage
	}
	return c.Image
}
