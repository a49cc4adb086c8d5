package v1alpha1

import (
	"fmt"
	"slices"
)

// Phase is how far the life of a volume has come.
type Phase string

// Phases. A volume that has left Pending is never created again (I6).
const (
	VolumePending       Phase = ""              // not all of its first replicas are there
	VolumeBootstrapping Phase = "Bootstrapping" // the members are chosen; nothing was ever answered
	VolumeReady         Phase = "Ready"
	VolumeDeleted       Phase = "Deleted" // its only replica was deleted by an order; the object stays until somebody deletes it
)

// Roles of a member.
const (
	RoleVoter   = "voter"   // counts for the majority
	RoleLearner = "learner" // is being filled; counts once it is
	RoleLeaving = "leaving" // still counts, and goes when another has taken its place
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
	KeyID       string   `json:"keyID"` // of the key that seals it; empty: sealing is off, or, while Pending, not decided
	Phase       Phase    `json:"phase"`
	Replicas    int      `json:"replicas,omitempty"` // copies that it shall have; 0 stands for 1
	Grouped     bool     `json:"grouped,omitempty"`  // it has one copy, or had: its replica is a group of several all the same
	Nodes       []string `json:"nodes,omitempty"`    // where these shall be, and the witness; of no meaning to a volume that was always of one copy
	Witness     string   `json:"witness,omitempty"`  // which of the nodes has the witness; empty: there is none
	Members     []Member `json:"members"`
	ConfIndex   uint64   `json:"confIndex,omitempty"` // position in the log of the newest change of members that is told here
	Survivor    string   `json:"survivor,omitempty"`  // the replica that goes on alone after a loss that somebody accepted
	Epoch       uint64   `json:"epoch"`               // of the newest owner
	Incarnation uint32   `json:"incarnation"`         // of its process
	OwnerPod    string   `json:"ownerPod"`
	OwnerUID    string   `json:"ownerUID"`
	OwnerNode   string   `json:"ownerNode,omitempty"` // where its pod runs or is to run
	// AssignedNode and AssignedDisk say, in a cluster, which disk directory of which node was chosen for the first replica.
	AssignedNode string `json:"assignedNode,omitempty"`
	AssignedDisk string `json:"assignedDisk,omitempty"`
}

// Member is one replica of a volume.
type Member struct {
	Replica string `json:"replica"` // 16 hexadecimal digits
	Node    string `json:"node"`
	Disk    string `json:"disk"`              // disk directory on the node
	Role    string `json:"role"`              // voter, learner or leaving
	Pod     string `json:"pod,omitempty"`     // who serves it: a pod or a keeper
	Address string `json:"address,omitempty"` // HOST:PORT where it is served; written by the one who serves it
	Filled  bool   `json:"filled,omitempty"`  // a learner that has everything, verified
	Lost    bool   `json:"lost,omitempty"`    // its disk is gone for good
	Witness bool   `json:"witness,omitempty"` // it keeps records and no content: it counts for the majority, and is no copy
}

// Copies is how many replicas the volume shall have.
func (v *Volume) Copies() int { return max(v.Replicas, 1) }

// Voters is how many members the volume shall have that count for the majority: its copies, and the witness.
func (v *Volume) Voters() int {
	if v.Witness != "" {
		return v.Copies() + 1
	}
	return v.Copies()
}

// CheckWitness tells why the object may not follow another one: a witness goes with two copies, and comes and goes with the volume alone. was is of
// generation 0 where there is none yet.
func (v *Volume) CheckWitness(was *Volume) error {
	const fix = "make a volume of another class, and copy the files"
	switch {
	case v.Witness != "" && v.Copies() != 2:
		return fmt.Errorf("volume %s: %d copies and a witness: allowed with a witness: 2; %s", v.Name, v.Copies(), fix)
	case was.Generation > 0 && was.Witness == "" && v.Witness != "":
		return fmt.Errorf("volume %s: it was made without a witness, and gets none; %s", v.Name, fix)
	case was.Witness != "" && v.Witness == "":
		return fmt.Errorf("volume %s: it was made with a witness, and keeps it; %s", v.Name, fix)
	}
	return nil
}

// Have is how many copies the volume has: voters with content whose disks are not lost.
func (v *Volume) Have() (n int) {
	for i := range v.Members {
		if m := &v.Members[i]; m.Votes() && !m.Lost && !m.Witness {
			n++
		}
	}
	return n
}

// Several tells whether the volume's replicas are a group of several, which they stay when only one is left: what it has voted for counts.
func (v *Volume) Several() bool { return v.Replicas > 1 || v.Grouped }

// Member finds a member by its replica's ID; nil if there is none.
func (v *Volume) Member(replica string) *Member {
	i := slices.IndexFunc(v.Members, func(m Member) bool { return m.Replica == replica })
	if i < 0 {
		return nil
	}
	return &v.Members[i]
}

// Votes tells whether the member counts for the majority.
func (m *Member) Votes() bool { return m.Role == RoleVoter || m.Role == RoleLeaving }

// MajorityLost tells that the volume can never decide anything again: the disks of too many voters are gone for good.
func (v *Volume) MajorityLost() bool {
	voters, left := 0, 0
	for i := range v.Members {
		if m := &v.Members[i]; m.Votes() {
			voters++
			if !m.Lost {
				left++
			}
		}
	}
	return voters > 0 && left < voters/2+1
}

// CanSpare tells whether the volume stays as it is without the disk of a member: a majority of its voters has a disk, and another one
// of them has the content and is not to leave. Who is to leave may have left, and what was written since may be with this member alone.
func (v *Volume) CanSpare(replica string) bool {
	c := v.Clone()
	m := c.Member(replica)
	if m == nil || v.Phase != VolumeReady || v.Survivor != "" {
		return false
	}
	m.Lost = true
	return !c.MajorityLost() && slices.ContainsFunc(c.Members, func(m Member) bool { return m.Role == RoleVoter && !m.Lost && !m.Witness })
}

// GiveUp says that the disk of a member is gone for good. A voter is one until another has taken its place; a learner goes.
func (v *Volume) GiveUp(replica string) {
	m := v.Member(replica)
	switch {
	case m == nil:
	case m.Votes():
		m.Lost, m.Role = true, RoleLeaving
	default:
		v.Members = slices.DeleteFunc(v.Members, func(m Member) bool { return m.Replica == replica })
	}
}

// Clone is a copy that shares nothing.
func (v *Volume) Clone() Volume {
	c := *v
	c.Nodes, c.Members = slices.Clone(v.Nodes), slices.Clone(v.Members)
	return c
}
