// Package status holds the JSON that a sidecar answers on /status and that `remora status -o json` prints. Every key is
// always present; sizes are integers in bytes.
package status

// Volume states.
const (
	Pending    = "Pending"    // no sidecar has opened it yet
	Recovering = "Recovering" // the journal is being replayed
	Mounted    = "Mounted"    // requests are answered
	Offline    = "Offline"    // its sidecar is not running
	Damaged    = "Damaged"    // acknowledged data cannot be read: needs an explicit word
	Failed     = "Failed"     // the sidecar refused to open it, or stopped after an error of the disk
	// MajorityLost: too many disks are gone for good, and nobody knows whether what is left is everything: needs an explicit word.
	MajorityLost = "MajorityLost"
)

// Replica states.
const (
	InSync     = "InSync"
	Syncing    = "Syncing"    // is behind, or lacks blocks
	Rebuilding = "Rebuilding" // its metadata is being replaced by a peer's: it was damaged, or too far behind
	Lost       = "Lost"       // its disk is gone for good
	Missing    = "Missing"    // it was given up, and no other one is there yet
)

// Replica roles.
const (
	Voter   = "voter"
	Learner = "learner"
	Witness = "witness" // a voter that keeps records and no content
	Leaving = "leaving" // a voter until another has taken its place
)

// Report is the answer of `remora status -o json`.
type Report struct {
	Pods []Pod `json:"pods"`
}

// Pod is one pod and the volumes that its sidecar serves. A keeper has no volumes.
type Pod struct {
	Name    string   `json:"name"`
	Node    string   `json:"node"`
	PID     *int     `json:"pid"` // of the sidecar; null while none runs
	Volumes []Volume `json:"volumes"`
	Hosted  []Hosted `json:"hosted"` // replicas of volumes with several copies that it serves, its own volumes' among them
}

// Hosted is one replica as the process that serves it sees it.
type Hosted struct {
	Volume    string `json:"volume"` // the Volume object
	ID        string `json:"id"`
	Disk      string `json:"disk"`
	Role      string `json:"role"`
	State     string `json:"state"`          // one of the replica states
	Leader    string `json:"leader"`         // ID of the group's leader; empty: none is known
	Term      uint64 `json:"term"`           // of the leader
	Applied   uint64 `json:"applied"`        // last log position in its state
	Committed uint64 `json:"committed"`      // last log position that it knows to be on a majority
	Last      uint64 `json:"last"`           // last log position that it has
	LastTerm  uint64 `json:"lastTerm"`       // of the leader that wrote it: of two logs, the one with the higher one has more of what was acknowledged
	Missing   uint64 `json:"missing"`        // bytes that are still to come
	Kept      uint64 `json:"kept,omitempty"` // bytes of records that a witness keeps
	Full      bool   `json:"full,omitempty"` // its disk takes no more: programs get ENOSPC
	Error     string `json:"error"`          // why it is not served; empty: it is
}

// Volume is one volume of a pod, as its owner sees it.
type Volume struct {
	Name           string    `json:"name"`           // the pod's volume
	Volume         string    `json:"volume"`         // the Volume object
	Mount          string    `json:"mount"`          // where it is mounted, or should be
	State          string    `json:"state"`          // one of the volume states
	Epoch          uint64    `json:"epoch"`          // which owner
	AppliedIndex   uint64    `json:"appliedIndex"`   // last log position in the owner's state
	CommittedIndex uint64    `json:"committedIndex"` // last log position on a majority of disks
	Size           uint64    `json:"size"`           // limit, bytes
	Used           uint64    `json:"used"`           // bytes of content
	Replicas       []Replica `json:"replicas"`       // as many as the class has
}

// Replica is one copy of a volume on one disk.
type Replica struct {
	ID         string `json:"id"`
	Pod        string `json:"pod"`
	Node       string `json:"node"`
	Role       string `json:"role"`
	State      string `json:"state"` // one of the replica states, Offline or Damaged
	MatchIndex uint64 `json:"matchIndex"`
	Missing    uint64 `json:"missing"`           // bytes that are still to come; 0: none, or not known
	Witness    bool   `json:"witness,omitempty"` // it is no copy: it keeps records
	Kept       uint64 `json:"kept,omitempty"`    // bytes of them
	Full       bool   `json:"full,omitempty"`    // its disk takes no more: programs get ENOSPC
}
