package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The group and version of Remora's Kubernetes API, as they stand in a manifest's apiVersion.
const (
	Group      = "remora.dev"
	Version    = "v1alpha1"
	APIVersion = Group + "/" + Version

	// KindVolumeClass is the kind of a VolumeClass document.
	KindVolumeClass = "VolumeClass"
)

// VolumeClass is the administrator's named set of settings for volumes, as a StorageClass is for claims. It is not
// namespaced. A pod names it with the annotation <volume>.remora.dev/class.
type VolumeClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VolumeClassSpec `json:"spec"`
}

// VolumeClassSpec holds what a class decides (replicas, durability, sealing) and what it lets users decide within bounds
// (size, trace). Sizes are Kubernetes quantities of whole bytes. A zero field means the default that its comment names.
type VolumeClassSpec struct {
	// Replicas is the number of synchronous copies. Nil means 1.
	Replicas *int `json:"replicas,omitempty"`
	// Witness adds a voter that keeps the log and no content to two copies, on a third node: less disk than a third copy. Nil means no.
	Witness *bool `json:"witness,omitempty"`
	// Durability says what an answered write has survived. Empty means "fsync".
	Durability Durability `json:"durability,omitempty"`
	// Sealing says whether blocks are encrypted and authenticated. Empty means "on"; "off" leaves a CRC32C.
	Sealing Sealing `json:"sealing,omitempty"`
	// MinSize and MaxSize bound <volume>.remora.dev/size. Empty means no bound of the class.
	MinSize string `json:"minSize,omitempty"`
	MaxSize string `json:"maxSize,omitempty"`
	// DefaultSize is used where a pod gives no size. Empty means that the pod must.
	DefaultSize string `json:"defaultSize,omitempty"`
	// Engine says what serves the volumes. Empty means "replicated".
	Engine Engine `json:"engine,omitempty"`
	// Sidecar is about the container that serves the volumes.
	Sidecar SidecarPolicy `json:"sidecar,omitempty"`
	// Trace bounds <volume>.remora.dev/trace.
	Trace TracePolicy `json:"trace,omitempty"`
}

// TracePolicy is which I/O traces a class takes by default, and which others its users may choose.
type TracePolicy struct {
	// Default is used where a pod says nothing: "every", "slow", "off" or "ratio:R" with 0 < R <= 1. Empty means "every".
	Default string `json:"default,omitempty"`
	// Allowed lists what a pod may choose: "every", "slow", "off", "ratio" (any ratio). Nil means all of them; an empty list
	// means the default only.
	Allowed []string `json:"allowed,omitempty"`
}

// Engine says what serves a volume.
type Engine string

// The engines of a class.
const (
	// EngineReplicated is the sidecar in the pod, with what it does: copies, sealing, traces.
	EngineReplicated Engine = "replicated"
	// EngineLocal is a directory of the node's disk with a quota, bound straight into the pod: native speed, one node, no sealing, no
	// traces, no copies.
	EngineLocal Engine = "local"
)

// SidecarPolicy is what a class gives the sidecar of pods that use it.
type SidecarPolicy struct {
	// Resources of the container. Nil means requests of 50m CPU and 64Mi memory, and no limits. Of several classes in a pod the
	// largest request counts, and the largest limit if all of them have one.
	Resources *SidecarResources `json:"resources,omitempty"`
}

// SidecarResources are Kubernetes quantities of "cpu" and "memory".
type SidecarResources struct {
	Requests map[string]string `json:"requests,omitempty"`
	Limits   map[string]string `json:"limits,omitempty"`
}

// Durability says what an answered write has survived.
type Durability string

// The durabilities of a class.
const (
	// DurabilityFsync makes fsync(2) wait for a majority of disks; a write is answered before.
	DurabilityFsync Durability = "fsync"
	// DurabilityWrite makes every write wait for it.
	DurabilityWrite Durability = "write"
)

// Sealing says whether every block is sealed (AES-256-GCM) or only checksummed (CRC32C).
type Sealing string

// The settings of Sealing.
const (
	SealingOn  Sealing = "on"
	SealingOff Sealing = "off"
)
