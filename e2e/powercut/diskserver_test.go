package powercut

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// A diskServer serves DIR/disk.img as DIR/fuse/disk.img, over FUSE, and writes what it is asked into DIR/log.
type diskServer struct {
	fuse.RawFileSystem
	size uint64

	mu       sync.Mutex
	data     *os.File
	log      *os.File
	end      int64 // of the log
	rng      *rand.Rand
	volatile []undo // writes since the last flush
	fault    fault
	fired    int
	bad      bool // data was lost
}

// undo is what a write has replaced.
type undo struct {
	off      int64
	old, new []byte
}

// fault is an error to come. The disk is well again after it, but where data was lost: there all flushes fail until the next order,
// so that everybody who may have trusted the disk, the file system's own threads too, is told before it looks well.
type fault struct {
	Flush bool `json:"flush"` // the next flushes or the next writes
	After int  `json:"after"` // that many go well
	Count int  `json:"count"` // that many fail
	Lose  bool `json:"lose"`  // a flush that fails has lost some of what it should have made durable
}

// diskOrder is a line to the server, and diskReport its answer: how many operations failed so far.
type diskOrder struct {
	Fault *fault `json:"fault,omitempty"`
}

type diskReport struct {
	Fired int `json:"fired"` // operations that failed
}

const diskNode = 2

// diskMain is the disk's process: it obeys orders from standard input and ends with it.
func diskMain() int {
	dir := os.Getenv(baseEnv)
	if err := serveDisk(dir, os.Stdin, json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintln(os.Stderr, "disk:", err)
		return 1
	}
	return 0
}

func serveDisk(dir string, orders io.Reader, reports *json.Encoder) error {
	d, err := openDiskServer(dir)
	if err != nil {
		return err
	}
	server, err := fuse.NewServer(d, filepath.Join(dir, "fuse"), &fuse.MountOptions{Name: "powercut", DirectMountStrict: true, MaxWrite: 1 << 20, DisableXAttrs: true})
	if err != nil {
		return err
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return err
	}
	if err := reports.Encode(diskReport{}); err != nil {
		return err
	}
	for lines := json.NewDecoder(orders); ; {
		var o diskOrder
		if err := lines.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := reports.Encode(d.obey(o)); err != nil {
			return err
		}
	}
	for range 10 { // the loop device lets go of the file a moment after it is gone
		if err = server.Unmount(); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func openDiskServer(dir string) (*diskServer, error) {
	d := &diskServer{RawFileSystem: fuse.NewDefaultRawFileSystem(), rng: rand.New(rand.NewPCG(rand.Uint64(), 0))}
	var err error
	if d.data, err = os.OpenFile(filepath.Join(dir, "disk.img"), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	info, err := d.data.Stat()
	if err != nil {
		return nil, err
	}
	d.size = uint64(info.Size())
	if d.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	return d, os.MkdirAll(filepath.Join(dir, "fuse"), 0o700)
}

func (d *diskServer) obey(o diskOrder) diskReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o.Fault != nil {
		d.fault, d.bad = *o.Fault, false
	}
	return diskReport{Fired: d.fired}
}

// fails counts an operation against the fault to come.
func (d *diskServer) fails(flush bool) bool {
	if flush && d.bad {
		d.fired++
		return true
	}
	if d.fault.Flush != flush || d.fault.Count == 0 {
		return false
	}
	if d.fault.After > 0 {
		d.fault.After--
		return false
	}
	d.fault.Count--
	d.fired++
	return true
}

// Write is a write of the disk: it is in the log before it is answered.
func (d *diskServer) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	began := d.position()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails(false) {
		return 0, fuse.EIO
	}
	if err := d.write(kindWrite, began, int64(in.Offset), data); err != nil {
		fmt.Fprintln(os.Stderr, "disk: write:", err)
		return 0, fuse.EIO
	}
	return uint32(len(data)), fuse.OK
}

// Fsync is a flush: it covers what was written before it came.
func (d *diskServer) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	covers := d.position()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rng.IntN(2) == 0 { // disks take their time, and writes go on meanwhile
		d.mu.Unlock()
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
		d.mu.Lock()
	}
	if d.fails(true) {
		if d.fault.Lose && !d.bad {
			d.bad = true
			if err := d.lose(); err != nil {
				fmt.Fprintln(os.Stderr, "disk: lose:", err)
			}
		}
		return fuse.EIO
	}
	if err := d.append(entry{kind: kindFlush, off: covers, began: covers}, nil); err != nil {
		fmt.Fprintln(os.Stderr, "disk: flush:", err)
		return fuse.EIO
	}
	d.volatile = nil
	return fuse.OK
}

func (d *diskServer) position() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.end
}

func (d *diskServer) write(kind uint32, began, off int64, data []byte) error {
	u := undo{off: off, old: make([]byte, len(data)), new: slices.Clone(data)}
	if _, err := d.data.ReadAt(u.old, off); err != nil {
		return err
	}
	d.volatile = append(d.volatile, u)
	if err := d.append(entry{kind: kind, off: off, began: began}, data); err != nil {
		return err
	}
	_, err := d.data.WriteAt(data, off)
	return err
}

func (d *diskServer) append(e entry, data []byte) error {
	b := append(e.header(len(data)), data...)
	_, err := d.log.WriteAt(b, d.end)
	d.end += int64(len(b))
	return err
}

// lose takes all writes back that were not flushed, and then does some of them again.
func (d *diskServer) lose() error {
	var kept, lost []undo
	for _, u := range d.volatile {
		if d.rng.IntN(2) == 0 {
			kept = append(kept, u)
		} else {
			lost = append(lost, u)
		}
	}
	all := slices.Clone(d.volatile)
	if len(lost) == 0 {
		return nil
	}
	for _, u := range slices.Backward(all) {
		if err := d.write(kindRevert, d.end, u.off, u.old); err != nil {
			return err
		}
	}
	for _, u := range kept {
		if err := d.write(kindRevert, d.end, u.off, u.new); err != nil {
			return err
		}
	}
	return nil
}

// Read reads what was written, flushed or not.
func (d *diskServer) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := d.data.ReadAt(buf, int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "disk: read:", err)
		return nil, fuse.EIO
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Lookup finds the one file.
func (d *diskServer) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if in.NodeId != fuse.FUSE_ROOT_ID || name != "disk.img" {
		return fuse.ENOENT
	}
	out.NodeId = diskNode
	d.attr(diskNode, &out.Attr)
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	return fuse.OK
}

// GetAttr describes the root and the file.
func (d *diskServer) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	d.attr(in.NodeId, &out.Attr)
	out.SetTimeout(time.Hour)
	return fuse.OK
}

func (d *diskServer) attr(node uint64, a *fuse.Attr) {
	a.Ino, a.Nlink, a.Mode = node, 1, fuse.S_IFDIR|0o700
	if node == diskNode {
		a.Mode, a.Size, a.Blksize, a.Blocks = fuse.S_IFREG|0o600, d.size, 4096, d.size/512
	}
}

// Open opens the file; nothing of it is cached.
func (d *diskServer) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}
