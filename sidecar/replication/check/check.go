package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/remora-storage/remora/disk"
)

// Config of a check.
type Config struct {
	FS          disk.FS            // nil: the real one
	Dir         string             // of a replica, a disk directory, a tenant on a node, a node, or remora dev
	KeyDir      string             // of key files, KeyDir/<tenant>/<volume>.key or KeyDir/<volume>.key; empty: that of the remora dev directory
	OnBlock     func(offset int64) // is told of every block in use, by its place in the arena; may be nil
	MaxFindings int                // of a replica or disk directory, beyond which they are only counted; 0 means 1000
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = disk.OS
	}
	if c.MaxFindings == 0 {
		c.MaxFindings = 1000
	}
	c.Dir = filepath.Clean(c.Dir)
	return c
}

// ErrNotOurs: the directory holds nothing of Remora.
var ErrNotOurs = errors.New("not a directory of Remora: want a replica's, a disk directory (disk-N), a tenant's, a node's, or a remora dev directory")

type checker struct {
	cfg Config
	out *Report
}

// Run checks every replica below a directory and changes nothing. What is wrong with them is in the report; an error means that the
// check could not be made: ErrNotOurs, ctx's, or one of reading.
func Run(ctx context.Context, cfg Config) (Report, error) {
	c := &checker{cfg: cfg.withDefaults(), out: &Report{Replicas: []Replica{}, Findings: []Finding{}, Notes: []Finding{}}}
	targets, err := find(c.cfg.FS, c.cfg.Dir)
	if err != nil {
		return *c.out, err
	}
	for _, t := range targets {
		if err := c.disk(ctx, t); err != nil {
			return *c.out, err
		}
	}
	c.compare()
	return *c.out, nil
}

// compare looks for replicas of a volume that differ although they are at the same index.
func (c *checker) compare() {
	first := map[string]*Replica{}
	for i := range c.out.Replicas {
		r := &c.out.Replicas[i]
		if r.Digest == "" {
			continue
		}
		key := fmt.Sprintf("%v %d", r.Group, r.Index)
		other := first[key]
		if other == nil {
			first[key] = r
			continue
		}
		s := c.scope(r.Path)
		if r.Digest != other.Digest {
			s.find(r.Path, "digest", fmt.Sprintf("index %d", r.Index), "differs from that of %s: of the two copies of volume %s one is wrong", other.Path, r.Volume)
		} else {
			s.note(r.Path, "digest", fmt.Sprintf("index %d", r.Index), "is that of %s", other.Path)
		}
	}
}

// quietLogger drops what the product's code logs: it says the same by its errors.
func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// disk checks a disk directory and the replicas of it that were asked for.
func (c *checker) disk(ctx context.Context, t target) error {
	d := &diskCheck{checker: c, scope: c.scope(t.dir), dir: t.dir}
	lock, err := disk.LockShared(c.cfg.FS, filepath.Join(t.dir, "lock"))
	if errors.Is(err, disk.ErrLocked) {
		d.find(t.dir, "lock", "", "a sidecar is serving this directory, so it was not checked: stop its pod (or remora dev) first")
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", t.dir, err)
	}
	return errors.Join(d.run(ctx, t.replicas), lock.Close())
}

func exists(on disk.FS, path string) bool {
	_, err := on.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func isDir(on disk.FS, path string) bool {
	st, err := on.Stat(path)
	return err == nil && st.IsDir()
}
