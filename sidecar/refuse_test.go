package sidecar

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/status"
)

// serve opens the volume as a sidecar does, but for the mount. end gives everything back, also after an error.
func (p *place) serve(now func() time.Time) (v *volume, end func(), err error) {
	cfg := p.config()
	cfg.now = now
	s := &sidecar{cfg: cfg, auth: authority.Files{Dir: filepath.Join(p.dir, "volumes")}}
	s.disks = &disks{cfg: &s.cfg}
	v = newVolume(s, cfg.Volumes[0])
	v.client = &holder.Client{SessionID: 7, State: holder.Fresh}
	err = v.openReplica(p.t.Context())
	return v, func() {
		closed := v.close()
		if err == nil {
			require.NoError(p.t, closed)
		}
		require.NoError(p.t, s.disks.close())
	}, err
}

// put writes a whole file of one byte and makes it durable.
func (p *place) put(v *volume, name string, size int, b byte) {
	a, err := v.fs.Lookup(meta.Root, name)
	if err != nil {
		a, err = v.fs.Create(&cachefs.Caller{}, meta.Root, name, cachefs.Node{Mode: syscall.S_IFREG | 0o600})
	}
	require.NoError(p.t, err)
	for off := 0; off < size; off += 500_000 {
		_, err = v.fs.Write(&cachefs.Caller{}, a.Ino, uint64(off), bytes.Repeat([]byte{b}, min(500_000, size-off)), false)
		require.NoError(p.t, err)
	}
	require.NoError(p.t, v.fs.Sync(p.t.Context(), &cachefs.Caller{}))
}

// get reads a whole file of one byte.
func (p *place) get(v *volume, name string, size int, b byte) error {
	a, err := v.fs.Lookup(meta.Root, name)
	require.NoError(p.t, err, name)
	require.EqualValues(p.t, size, a.Size)
	got := make([]byte, size)
	for off := 0; off < size; {
		n, err := v.fs.Read(&cachefs.Caller{}, a.Ino, uint64(off), got[off:])
		if err != nil {
			return err
		}
		require.NotZero(p.t, n, name)
		off += n
	}
	require.Equal(p.t, bytes.Repeat([]byte{b}, size), got, name)
	return nil
}

// What the test volume holds: before its last checkpoint, and since, in several segments of the journal.
const oldSize, bulkSize, smallSize, newSize = 2_500_000, 1_500_000, 100, 9000

func (p *place) fill() (img image, replica string) {
	v, end, err := p.serve(time.Now)
	require.NoError(p.t, err)
	p.put(v, "old", oldSize, 1)
	end()
	v, end, err = p.serve(time.Now)
	require.NoError(p.t, err)
	p.put(v, "bulk", bulkSize, 2)
	p.put(v, "small", smallSize, 3)
	p.put(v, "new", newSize, 4)
	p.put(v, "more", bulkSize, 5)
	_, err = v.group.Recover(p.t.Context()) // nothing: it waits until all is applied, since files are copied one after another
	require.NoError(p.t, err)
	img = takeImage(p.t, filepath.Join(p.dir, "disks"))
	m := v.object.Members[0]
	end()
	return img, filepath.Join(m.Disk, "replicas", m.Replica)
}

func (p *place) whole(v *volume) {
	require.NoError(p.t, p.get(v, "old", oldSize, 1))
	require.NoError(p.t, p.get(v, "bulk", bulkSize, 2))
	require.NoError(p.t, p.get(v, "small", smallSize, 3))
	require.NoError(p.t, p.get(v, "new", newSize, 4))
	require.NoError(p.t, p.get(v, "more", bulkSize, 5))
}

// image is every file below a directory.
type image map[string][]byte

// takeImage waits out the journal's own housekeeping: a segment that is renamed while files are copied one after another would be missing, or half there.
func takeImage(t *testing.T, dir string) image {
	for try := 0; ; try++ {
		img, err := copyFiles(dir)
		if err == nil {
			return img
		}
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.Less(t, try, 100, "files of %s keep vanishing", dir)
	}
}

func copyFiles(dir string) (image, error) {
	img := image{}
	return img, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		img[rel], err = os.ReadFile(path)
		return err
	})
}

func (i image) put(t *testing.T, dir string) {
	require.NoError(t, os.RemoveAll(dir))
	for name := range i {
		i.putFile(t, dir, name)
	}
}

func (i image) putFile(t *testing.T, dir, name string) {
	require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), i[name], 0o600))
}

// find is the first file that a pattern names.
func (i image) find(t *testing.T, pattern string) (found string) {
	for name := range i {
		ok, err := filepath.Match(pattern, name)
		require.NoError(t, err)
		if ok && (found == "" || name < found) {
			found = name
		}
	}
	require.NotEmpty(t, found, pattern)
	return found
}

// fullSegment is the first journal segment that has much in it: others come behind it.
func (i image) fullSegment() (found string) {
	for name, b := range i {
		if filepath.Ext(name) == ".seg" && len(b)-bytes.Count(b, []byte{0}) > 400_000 && (found == "" || name < found) {
			found = name
		}
	}
	return found
}

// kept fails the test if a file that a volume needs is not in o as it is here. Journal segments that wait for use, and Pebble's lists of
// files, of which it keeps the one before, come and go.
func (i image) kept(t *testing.T, o image) {
	for name, b := range i {
		base, waits := filepath.Base(name), len(b) > 8 && bytes.Equal(b[:8], make([]byte, 8)) // a segment without a header
		if base != "superblock" && base != "arena" && filepath.Ext(name) != ".sst" && (filepath.Ext(name) != ".seg" || waits) {
			continue
		}
		require.True(t, bytes.Equal(b, o[name]), "%s was changed", name)
	}
}

// mend puts back what is not as in the image, and takes away what is too much.
func (i image) mend(t *testing.T, dir string, damaged image) {
	for name, b := range i {
		if c, ok := damaged[name]; !ok || !bytes.Equal(b, c) {
			i.putFile(t, dir, name)
		}
	}
	for name := range damaged {
		if _, ok := i[name]; !ok {
			require.NoError(t, os.Remove(filepath.Join(dir, name)))
		}
	}
}

// TestRefused: a journal, metadata or arena that is damaged, cut, of a newer version, of another volume or copied in part is refused with
// an error that says what, where and what to do. Nothing is changed by that, and when what was wrong is put right, everything is there.
func TestRefused(t *testing.T) {
	p, q := newPlace(t), newPlace(t)
	img, replica := p.fill()
	other, otherReplica := q.fill()
	dir := filepath.Join(p.dir, "disks")
	path := func(name string) string { return filepath.Join(dir, name) }
	change := func(name string, edit func(b []byte) []byte) func() {
		return func() { require.NoError(t, os.WriteFile(path(name), edit(bytes.Clone(img[name])), 0o600)) }
	}
	flip := func(name string, at ...int) func() {
		return change(name, func(b []byte) []byte {
			for _, off := range at {
				b[off] ^= 1
			}
			return b
		})
	}
	cut := func(name string, n int) func() { return change(name, func(b []byte) []byte { return b[:n] }) }
	remove := func(name string) func() { return func() { require.NoError(t, os.RemoveAll(path(name))) } }
	take := func(name, from string) func() { return change(name, func([]byte) []byte { return other[from] }) }
	newer := func(name string) func() { return change(name, newerSuperblock) }
	in := func(pattern string) string { return img.find(t, replica+"/"+pattern) }
	segment, super, manifest, sst := img.fullSegment(), in("superblock"), in("meta/MANIFEST-*"), in("meta/*.sst")
	for name := range img { // the one that counts
		if ok, _ := filepath.Match(replica+"/meta/MANIFEST-*", name); ok && name > manifest {
			manifest = name
		}
	}
	const fix = "remora check"
	for _, c := range []struct {
		what  string
		do    func()
		state string
		says  []string
	}{
		{"journal: a bit of an acknowledged record", flip(segment, 300_000), status.Damaged, []string{filepath.Base(segment), "does not verify", "synced up to", fix}},
		{"journal: a segment is cut", cut(segment, 100_000), status.Damaged, []string{filepath.Base(segment), fix}},
		{"journal: a segment is empty", cut(segment, 0), status.Damaged, []string{filepath.Base(segment), fix}},
		{"journal: a segment is missing", remove(segment), status.Damaged, []string{"journal", fix}},
		{"journal: all of it is missing", remove("disk-0/journal"), status.Damaged, []string{"needs the journal from", fix}},
		{"journal: a segment of another volume", take(segment, other.find(t, "disk-0/journal/*.seg")), status.Failed,
			[]string{filepath.Base(segment), "disk ID is", "another disk directory", fix}},
		{"disk: the superblock is damaged", flip("disk-0/superblock", 100, 4196), status.Damaged, []string{path("disk-0/superblock"), "damaged", fix}},
		{"disk: the superblock is cut", cut("disk-0/superblock", 100), status.Damaged, []string{path("disk-0/superblock"), "no superblock", fix}},
		{"disk: the superblock is missing", remove("disk-0/superblock"), status.Failed, []string{path("disk-0"), "an empty disk never takes its place"}},
		{"disk: the superblock of another volume", take("disk-0/superblock", "disk-0/superblock"), status.Failed, []string{"disk ID is", fix}},
		{"disk: a newer version", newer("disk-0/superblock"), status.Damaged, []string{"version 2", "use the version that wrote it, or a newer one"}},
		{"replica: the superblock is damaged", flip(super, 100, 4196), status.Damaged, []string{path(super), "damaged", fix}},
		{"replica: the superblock is missing", remove(super), status.Damaged, []string{path(replica), "has no superblock", fix}},
		{"replica: the superblock of another volume", take(super, otherReplica+"/superblock"), status.Damaged, []string{"is a copy of replica", fix}},
		{"replica: a newer version", newer(super), status.Damaged, []string{"version 2", "use the version that wrote it, or a newer one"}},
		{"replica: all of it is missing", remove(replica), status.Damaged, []string{path(replica), "has no superblock", fix}},
		{"metadata: the list of files is damaged", flip(manifest, 30), status.Damaged, []string{filepath.Base(manifest), fix}},
		{"metadata: the list of files is empty", cut(manifest, 0), status.Damaged, []string{filepath.Base(manifest), fix}},
		{"metadata: the list of files is missing", remove(manifest), status.Damaged, []string{filepath.Base(manifest), fix}},
		{"metadata: a table is damaged", flip(sst, 300), status.Damaged, []string{"sealed file is damaged", fix}},
		{"metadata: a table is cut", cut(sst, 300), status.Damaged, []string{filepath.Base(sst), fix}},
		{"metadata: a table is missing", remove(sst), status.Damaged, []string{"000004", fix}},
		{"metadata: a table of another volume", take(sst, other.find(t, otherReplica+"/meta/*.sst")), status.Damaged, []string{"metadata", fix}},
		{"metadata: all of it is missing", remove(replica + "/meta"), status.Damaged, []string{path(replica), "does not exist", fix}},
		{"metadata: a newer version", func() {
			require.NoError(t, os.Rename(path(in("meta/marker.format-version.*")), path(replica+"/meta/marker.format-version.000999.999")))
		}, status.Failed, []string{path(replica), "version 999", "use the version of remora that wrote it, or a newer one"}},
		{"arena: it is missing", remove(replica + "/arena"), status.Damaged, []string{path(replica + "/arena"), "is missing", fix}},
		{"arena: it is cut", cut(replica+"/arena", 4096), status.Damaged, []string{path(replica + "/arena"), "was cut", fix}},
	} {
		img.put(t, dir)
		c.do()
		damaged := takeImage(t, dir)
		v, end, err := p.serve(time.Now)
		err = v.advise(err)
		end()
		require.Error(t, err, c.what)
		require.Equal(t, c.state, stateOf(err), "%s: %v", c.what, err)
		for _, say := range c.says {
			require.ErrorContains(t, err, say, c.what)
		}
		damaged.kept(t, takeImage(t, dir))
		img.mend(t, dir, damaged)
		v, end, err = p.serve(time.Now)
		require.NoError(t, err, "%s, and back", c.what)
		if strings.HasPrefix(c.what, "arena") {
			// The journal has been read without the content that it keeps there, and took its last batch for torn.
			require.NoError(t, p.get(v, "old", oldSize, 1))
		} else {
			p.whole(v)
		}
		end()
	}
}

// newerSuperblock has the next version in both copies.
func newerSuperblock(b []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	for off := 0; off < len(b); off += 4096 {
		c := b[off : off+4096]
		c[8]++
		n := binary.LittleEndian.Uint32(c[20:])
		binary.LittleEndian.PutUint32(c[28:], crc32.Update(crc32.Checksum(c[:28], table), table, c[32:32+n]))
	}
	return b
}

// TestForeignArena: blocks of another volume are never returned.
func TestForeignArena(t *testing.T) {
	p, q := newPlace(t), newPlace(t)
	img, replica := p.fill()
	other, otherReplica := q.fill()
	dir := filepath.Join(p.dir, "disks")
	img.put(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, replica, "arena"), other[otherReplica+"/arena"], 0o600))
	v, end, err := p.serve(time.Now)
	require.NoError(t, err)
	require.ErrorIs(t, p.get(v, "old", oldSize, 1), store.ErrDamaged)
	require.NoError(t, p.get(v, "new", newSize, 4), "what is in the journal is written again")
	end()
}

// TestReadOnlyDisk: a disk that cannot be written is refused, and serves when it can be.
func TestReadOnlyDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a directory is mounted read-only")
	}
	p := newPlace(t)
	img, _ := p.fill()
	dir := filepath.Join(p.dir, "disks")
	img.put(t, dir)
	require.NoError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	require.NoError(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := p.settings().withDefaults()
	require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
	require.ErrorContains(t, err, "--disks "+dir+": is not writable")
	require.ErrorContains(t, err, "read-only file system")
	require.Equal(t, img, takeImage(t, dir))
	v, end, err := p.serve(time.Now)
	require.NoError(t, err)
	p.whole(v)
	end()
}

// TestClockSetBack: no order on the disk comes from the clock. Times of files may go back; indexes, epochs and content do not.
func TestClockSetBack(t *testing.T) {
	p := newPlace(t)
	at := time.Date(2031, 2, 3, 4, 5, 6, 7, time.UTC)
	applied, epoch := uint64(0), int64(0)
	for round, back := range []time.Duration{0, time.Hour, 20 * 365 * 24 * time.Hour, 70 * 365 * 24 * time.Hour} {
		now := at.Add(-back)
		v, end, err := p.serve(func() time.Time { return now })
		require.NoError(t, err, now)
		if round > 0 {
			require.NoError(t, p.get(v, "file", oldSize, byte(round)))
		}
		p.put(v, "file", oldSize, byte(round+1))
		a, err := v.fs.Lookup(meta.Root, "file")
		require.NoError(t, err)
		require.Equal(t, meta.TimeOf(now), a.Mtime)
		at := v.group.Status()
		require.Greater(t, uint64(at.Committed), applied)
		require.Greater(t, int64(v.object.Epoch), epoch)
		applied, epoch = uint64(at.Committed), int64(v.object.Epoch)
		if round%2 == 0 { // the process dies: the next one starts from here
			_, err = v.group.Recover(t.Context()) // nothing: it waits until all is applied
			require.NoError(t, err)
			img := takeImage(t, filepath.Join(p.dir, "disks"))
			end()
			img.put(t, filepath.Join(p.dir, "disks"))
			continue
		}
		end()
	}
}

// TestTwoProcesses: the second one on a directory is told who is in its way, and changes nothing.
func TestTwoProcesses(t *testing.T) {
	t.Parallel() // it waits for a predecessor that might be just dying
	p := newPlace(t)
	v, end, err := p.serve(time.Now)
	require.NoError(t, err)
	p.put(v, "file", newSize, 1)
	_, err = v.group.Recover(t.Context()) // there is nothing to recover: it waits until all is applied
	require.NoError(t, err)
	before := takeImage(t, filepath.Join(p.dir, "disks"))
	_, endSecond, err := p.serve(time.Now)
	endSecond()
	require.ErrorIs(t, err, diskdir.ErrInUse)
	require.ErrorContains(t, err, filepath.Join(p.dir, "disks", "disk-0"))
	before.kept(t, takeImage(t, filepath.Join(p.dir, "disks")))
	p.put(v, "file", newSize, 2)
	end()
	v, end, err = p.serve(time.Now)
	require.NoError(t, err)
	require.NoError(t, p.get(v, "file", newSize, 2))
	end()
}
