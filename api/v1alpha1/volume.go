package v1alpha1

// Phase is how far the life of a volume has come.
type Phase string

// Phases. A volume that has left Pending is never created again (I6).
const (
	VolumePending       Phase = ""              // no replica yet
	VolumeBootstrapping Phase = "Bootstrapping" // the members are chosen; nothing was ever answered
	VolumeReady         Phase = "Ready"
)

// Volume is what is true of a volume whoever serves it: its members, and who may open the next epoch. It is changed by
// compare-and-swap on Generation only. In dev mode it is a file.
type Volume struct {
	Generation  uint64   `json:"generation"` // raised by every update
	UID         string   `json:"uid"`
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
	Class       string   `json:"class"`
	Size        int64    `json:"size"` // bytes
	Group       string   `json:"group"`
	KeyID       string   `json:"keyID"` // of the key that seals it; empty: sealing is off
	Phase       Phase    `json:"phase"`
	Members     []Member `json:"members"`
	Epoch       uint64   `json:"epoch"`       // of the newest owner
	Incarnation uint32   `json:"incarnation"` // of its process
	OwnerPod    string   `json:"ownerPod"`
	OwnerUID    string   `json:"ownerUID"`
}

// Member is one replica of a volume.
type Member struct {
	Replica string `json:"replica"` // 16 hexadecimal digits
	Node    string `json:"node"`
	Disk    string `json:"disk"` // disk directory on the node
	Role    string `json:"role"` // voter, learner or witness
}
