package check

import (
	"fmt"
	"strings"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Path  string `json:"path"`            // file or directory
	What  string `json:"what"`            // the structure: superblock, journal, record, metadata, inode, arena, ...
	Where string `json:"where,omitempty"` // in it: offset, key, inode, blob, block
	Means string `json:"means"`
}

// String is the finding's line.
func (f Finding) String() string {
	if f.Where == "" {
		return fmt.Sprintf("%s: %s: %s", f.Path, f.What, f.Means)
	}
	return fmt.Sprintf("%s: %s: %s: %s", f.Path, f.What, f.Where, f.Means)
}

// Replica is a replica that was checked.
type Replica struct {
	Path       string       `json:"path"`
	ID         diskdir.ID   `json:"id"`
	Group      diskdir.ID   `json:"group"`
	Volume     string       `json:"volume"`
	VolumeUID  string       `json:"volumeUID"`
	Checkpoint record.Index `json:"checkpoint"`
	Index      record.Index `json:"index"`            // up to which the log was applied
	Inodes     int          `json:"inodes"`           // found
	Blobs      int          `json:"blobs"`            // found
	Blocks     int          `json:"blocks"`           // of 4 KiB, compared with their seals
	Unbound    int          `json:"unbound"`          // records that were answered and have no index yet
	Digest     string       `json:"digest,omitempty"` // of its logical content at Index; empty: it is not one of several, or not all content is here
}

// Report is what a check found.
type Report struct {
	Replicas []Replica `json:"replicas"`
	Findings []Finding `json:"findings"`
	Omitted  int       `json:"omitted"` // findings beyond Config.MaxFindings of a replica
	Notes    []Finding `json:"notes"`   // worth knowing, and as it should be
}

// Bad tells whether something is wrong.
func (r *Report) Bad() bool { return len(r.Findings) > 0 }

// Summary is the last line of the output.
func (r *Report) Summary() string {
	return fmt.Sprintf("checked %s: %s", count(len(r.Replicas), "replica"), count(len(r.Findings)+r.Omitted, "finding"))
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// oneLine keeps a finding on its line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// scope is where findings of one disk directory or replica go.
type scope struct {
	report *Report
	dir    string
	left   int // findings that may still be added
}

func (c *checker) scope(dir string) *scope {
	return &scope{report: c.out, dir: dir, left: c.cfg.MaxFindings}
}

func (s *scope) find(path, what, where, format string, args ...any) {
	if s.left == 0 {
		s.report.Omitted++
		return
	}
	s.left--
	s.report.Findings = append(s.report.Findings, Finding{path, what, where, oneLine(fmt.Sprintf(format, args...))})
}

func (s *scope) note(path, what, where, format string, args ...any) {
	s.report.Notes = append(s.report.Notes, Finding{path, what, where, oneLine(fmt.Sprintf(format, args...))})
}
