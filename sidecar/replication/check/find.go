package check

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// target is a disk directory and which of its replicas to look at.
type target struct {
	dir      string
	replicas []diskdir.ID // nil: all
}

// find returns the disk directories that dir is, or holds.
func find(on disk.FS, dir string) ([]target, error) {
	if _, err := on.Stat(dir); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if !isDir(on, dir) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotOurs)
	}
	if id, ok := isReplica(on, dir); ok {
		return []target{{filepath.Dir(filepath.Dir(dir)), []diskdir.ID{id}}}, nil
	}
	if isDisk(on, dir) {
		return []target{{dir: dir}}, nil
	}
	if nodes := filepath.Join(dir, "nodes"); isDir(on, nodes) { // remora dev: nodes/<node>/<namespace>/disk-N
		return below(on, nodes, 2)
	}
	found, err := below(on, dir, 1) // a tenant's directory, or a node's
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s: %w", dir, ErrNotOurs)
	}
	return found, err
}

// below collects the disk directories in dir and, depth levels further, in its directories.
func below(on disk.FS, dir string, depth int) ([]target, error) {
	names, err := on.List(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var found []target
	for _, n := range names {
		path := filepath.Join(dir, n)
		switch {
		case !isDir(on, path):
		case strings.HasPrefix(n, "disk-"):
			found = append(found, target{dir: path})
		case depth > 0:
			more, err := below(on, path, depth-1)
			if err != nil {
				return nil, err
			}
			found = append(found, more...)
		}
	}
	return found, nil
}

// isReplica goes by place and name, and then by what is in it: its superblock may be what is wrong.
func isReplica(on disk.FS, dir string) (diskdir.ID, bool) {
	id, err := diskdir.ParseID(filepath.Base(dir))
	if err != nil || filepath.Base(filepath.Dir(dir)) != "replicas" {
		return 0, false
	}
	return id, exists(on, filepath.Join(dir, "superblock")) || exists(on, filepath.Join(dir, "arena")) || isDir(on, filepath.Join(dir, "meta"))
}

func isDisk(on disk.FS, dir string) bool {
	if s, err := diskdir.InspectSuper(on, dir); err == nil && s.Kind == diskdir.DiskSuper {
		return true
	}
	return isDir(on, filepath.Join(dir, "replicas")) || isDir(on, filepath.Join(dir, "journal")) || strings.HasPrefix(filepath.Base(dir), "disk-")
}
