package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node/kube"
)

// Driver is the CSI driver's name.
const Driver = "remora.dev"

// SidecarUID is who injected sidecars run as: the owner of sockets and disk directories.
const SidecarUID = 65534

// Config of the node plugin.
type Config struct {
	Node       string        // this node's name
	KubeletDir string        // the kubelet's root directory; empty means /var/lib/kubelet
	Root       string        // of the disk directories, one folder for each namespace; empty means /var/lib/remora
	Listen     string        // HOST:PORT of /healthz, /readyz and /metrics; empty: none
	HangBudget time.Duration // how long a mount that was served may be unserved before it is aborted; 0 means 10 minutes
	EndBudget  time.Duration // the same, of a pod that is being deleted; 0 means 10 s
	Linger     time.Duration // how long a plugin that is told to stop waits for sidecars that are just restarting; 0 means 15 s
	Orders     time.Duration // how often orders to delete replicas are looked for; 0 means 30 s
	Version    string        // shown to the kubelet
	API        API           // required
	Keys       Keys          // required
	Logger     *slog.Logger  // required
}

// API is what the plugin reads and writes at the API server. Errors are kube.ErrNotFound, kube.ErrConflict, or say that it cannot be reached.
type API interface {
	Objects
	Volumes
	// Record writes an event.
	Record(ctx context.Context, node string, e kube.Event) error
}

// Objects are what others make.
type Objects interface {
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Namespace(ctx context.Context, name string) (*corev1.Namespace, error)
	Class(ctx context.Context, name string) (*v1alpha1.VolumeClass, error)
	Owner(ctx context.Context, namespace string, ref metav1.OwnerReference) (kube.Owner, error)
}

// Volumes are the Volume objects.
type Volumes interface {
	Volume(ctx context.Context, namespace, name string) (*v1alpha1.VolumeObject, error)
	// LabelledVolumes are those of all namespaces that have the label, whatever its value.
	LabelledVolumes(ctx context.Context, label string) ([]v1alpha1.VolumeObject, error)
	// CreateVolume fails with kube.ErrConflict if there is one of that name.
	CreateVolume(ctx context.Context, v *v1alpha1.VolumeObject) (*v1alpha1.VolumeObject, error)
	// UpdateVolume fails with kube.ErrConflict if it has changed since it was read.
	UpdateVolume(ctx context.Context, v *v1alpha1.VolumeObject) (*v1alpha1.VolumeObject, error)
}

// Keys keeps the volumes' keys, where tenants cannot read them.
type Keys interface {
	// Key reads the key of a volume; kube.ErrNotFound.
	Key(ctx context.Context, v v1alpha1.Volume) ([]byte, error)
	// Make keeps the key of a new volume, durable when it returns, and returns it or the one that was there first.
	Make(ctx context.Context, v v1alpha1.Volume, key []byte) ([]byte, error)
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("--node (NODE_NAME) is missing: the name of this node; the DaemonSet sets it from spec.nodeName"))
	}
	def := func(d *time.Duration, value time.Duration, flag string) {
		if *d < 0 {
			errs = append(errs, fmt.Errorf("%s %v: must not be negative", flag, *d))
		}
		if *d == 0 {
			*d = value
		}
	}
	def(&c.HangBudget, 10*time.Minute, "--hang-budget")
	def(&c.EndBudget, 10*time.Second, "--end-budget")
	def(&c.Linger, 15*time.Second, "--linger")
	def(&c.Orders, 30*time.Second, "--orders")
	if c.KubeletDir == "" {
		c.KubeletDir = "/var/lib/kubelet"
	}
	if c.Root == "" {
		c.Root = "/var/lib/remora"
	}
	for flag, dir := range map[string]string{"--kubelet-dir": c.KubeletDir, "--root": c.Root} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			errs = append(errs, fmt.Errorf("%s %q: must be an absolute path without . or .. or a / at its end", flag, dir))
		}
	}
	return c, errors.Join(errs...)
}

// tick is how often the budgets are looked at.
func (c *Config) tick() time.Duration { return min(time.Second, c.HangBudget/5, c.EndBudget/5) }

// The plugin's own places.
func (c *Config) pluginDir() string { return filepath.Join(c.KubeletDir, "plugins", Driver) }
func (c *Config) csiSocket() string { return filepath.Join(c.pluginDir(), "csi.sock") }
func (c *Config) registrySocket() string {
	return filepath.Join(c.KubeletDir, "plugins_registry", Driver+"-reg.sock")
}
func (c *Config) stateFile(uid string) string {
	return filepath.Join(c.pluginDir(), "state", uid+".json")
}
func (c *Config) podDir(uid string) string { return filepath.Join(c.pluginDir(), "pods", uid) }
