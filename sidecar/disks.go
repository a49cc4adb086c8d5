package sidecar

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// takeOverTime is how long a sidecar waits for the lock of a predecessor that is just dying.
const takeOverTime = 5 * time.Second

// disks are the disk directories that this sidecar serves.
type disks struct {
	cfg *Config

	opening sync.Mutex // held while a directory is opened: our own lock on it must not look like another's
	mu      sync.Mutex
	open    []*openDisk
	broken  map[string]error // directories that are damaged, and why; they are not opened again
}

type openDisk struct {
	name string
	dir  *diskdir.Dir
	disk *replication.Disk
}

// served returns the open directory of that name; nil if it is not open here.
func (d *disks) served(name string) *openDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.open {
		if o.name == name {
			return o
		}
	}
	return nil
}

func (d *disks) list() []*openDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.open)
}

// commit makes durable what was delivered to groups in them.
func (d *disks) commit() {
	for _, o := range d.list() {
		if o.disk != nil {
			o.disk.Commit()
		}
	}
}

// first returns a directory that is open; nil if none is.
func (d *disks) first() *openDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.open) == 0 {
		return nil
	}
	return d.open[0]
}

// damaged is why a directory cannot be used any more; nil if that is not known.
func (d *disks) damaged(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken[name]
}

// note remembers damage: to read the journal again would find it again.
func (d *disks) note(name string, err error) error {
	if damaged(err) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.broken == nil {
			d.broken = map[string]error{}
		}
		d.broken[name] = err
	}
	return err
}

// get opens the disk directory of that name, or returns it if it is open.
func (d *disks) get(ctx context.Context, name string) (*openDisk, error) {
	if o := d.served(name); o != nil {
		return o, nil
	}
	if _, err := d.cfg.fs.Stat(filepath.Join(d.cfg.diskPath(name), "superblock")); err != nil {
		return nil, fmt.Errorf("disk directory %s is not here: %w", d.cfg.diskPath(name), err)
	}
	return d.openWait(ctx, name)
}

// assigned opens the disk directory that the node plugin chose for a new replica, or returns it if it is open.
func (d *disks) assigned(ctx context.Context, name string) (*openDisk, error) {
	if o := d.served(name); o != nil {
		return o, nil
	}
	return d.openWait(ctx, name)
}

// take opens the disk directory of that name, and makes it if it is not there. diskdir.ErrInUse: another process serves it.
func (d *disks) take(name string) error {
	_, err := d.tryOpen(name)
	return err
}

// forNew returns a disk directory for a new replica: one that is open, or one that is free and holds nobody's replicas, or a new one.
func (d *disks) forNew(ctx context.Context) (*openDisk, error) {
	d.opening.Lock()
	defer d.opening.Unlock()
	if o := d.first(); o != nil {
		return o, nil
	}
	for n := 0; ; n++ {
		name := fmt.Sprintf("disk-%d", n)
		if d.damaged(name) != nil {
			continue
		}
		o, err := d.openOnce(name)
		if errors.Is(err, diskdir.ErrInUse) || damaged(d.note(name, err)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos, err := o.dir.Replicas()
		if err != nil {
			return nil, errors.Join(err, o.dir.Close())
		}
		mine := true
		for _, info := range infos {
			mine = mine && d.owns(info.Volume)
		}
		if mine {
			if o, err = d.start(o); damaged(d.note(name, err)) {
				continue
			}
			return o, err
		}
		if err := o.dir.Close(); err != nil {
			return nil, err
		}
	}
}

// owns tells whether a Volume is one of this pod's.
func (d *disks) owns(volume string) bool {
	for _, v := range d.cfg.Volumes {
		if d.cfg.volumeName(v) == volume {
			return true
		}
	}
	return false
}

func (d *disks) openOnce(name string) (*openDisk, error) {
	dir, err := diskdir.Open(d.cfg.fs, d.cfg.diskPath(name), d.cfg.Namespace, d.cfg.SegmentBytes, d.cfg.rand)
	if err != nil {
		return nil, err
	}
	return &openDisk{name: name, dir: dir}, nil
}

// openWait opens a directory that holds one of our replicas; a predecessor may be just dying.
func (d *disks) openWait(ctx context.Context, name string) (*openDisk, error) {
	deadline := time.Now().Add(takeOverTime)
	for first := true; ; first = false {
		o, err := d.tryOpen(name)
		if err == nil {
			return o, nil
		}
		if !errors.Is(err, diskdir.ErrInUse) || time.Now().After(deadline) {
			return nil, err
		}
		if first {
			d.cfg.Logger.Info("waiting for a disk directory: who has it may be just ending", "disk", name, "limit", takeOverTime, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *disks) tryOpen(name string) (*openDisk, error) {
	d.opening.Lock()
	defer d.opening.Unlock()
	if o := d.served(name); o != nil {
		return o, nil
	}
	if err := d.damaged(name); err != nil {
		return nil, err
	}
	o, err := d.openOnce(name)
	if err == nil {
		o, err = d.start(o)
	}
	return o, d.note(name, err)
}

// start reads the journal.
func (d *disks) start(o *openDisk) (*openDisk, error) {
	err := o.dir.CheckJournal()
	if err != nil {
		return nil, errors.Join(err, o.dir.Close())
	}
	o.disk, err = replication.OpenDisk(replication.Config{FS: d.cfg.fs, Rand: d.cfg.rand, Logger: d.cfg.Logger}, o.dir)
	if err != nil {
		return nil, errors.Join(err, o.dir.Close())
	}
	d.mu.Lock()
	d.open = append(d.open, o)
	d.mu.Unlock()
	return o, nil
}

func (d *disks) close() error {
	var errs []error
	for _, o := range d.open {
		errs = append(errs, o.disk.Close())
	}
	return errors.Join(errs...)
}
