package fsx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// abilities of a file system that not all have. An exerciser tries each once, and leaves out what is not there.
type abilities struct {
	Collapse, Insert bool
	DirectRagged     bool // O_DIRECT at any offset and of any length
}

func (a abilities) String() string {
	var missing []string
	for _, one := range []struct {
		name  string
		there bool
	}{{"collapse", a.Collapse}, {"insert", a.Insert}, {"ragged O_DIRECT", a.DirectRagged}} {
		if !one.there {
			missing = append(missing, one.name)
		}
	}
	if len(missing) == 0 {
		return "everything"
	}
	return "no " + strings.Join(missing, ", no ")
}

// openFile is a file under test: its descriptors and what it should hold.
type openFile struct {
	path                     string
	buffered, direct, append int
	held                     []byte // a shared map that stays, some of it perhaps not yet written back
	model                    *content
}

// exerciser works on two files.
type exerciser struct {
	files   [2]*openFile
	plan    *planner
	r       *rand.Rand // of what does not change the operations: what is compared, and when
	can     abilities
	exact   bool // st_blocks is known: the files are on a volume
	log     []operation
	buffer  []byte // aligned for O_DIRECT
	want    []byte
	counted [kinds]int
}

// exercise takes DIR STATE SEED OPS PLACE, does so many operations on files in DIR, and saves what they hold to STATE. PLACE is
// "volume", or "ruler" for a plain directory.
func exercise(args []string) error {
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	ops, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	e, err := newExerciser(args[0], seed)
	if err != nil {
		return err
	}
	e.exact = args[4] == "volume"
	for range ops {
		if err := e.step(); err != nil {
			return e.report(err)
		}
	}
	for n, f := range e.files {
		if err := errors.Join(e.compare(n), f.unmap()); err != nil {
			return e.report(err)
		}
		if err := errors.Join(unix.Fsync(f.buffered), f.close()); err != nil {
			return e.report(err)
		}
	}
	fmt.Printf("%s: %s; %s\n", e.plan.p.name, e.can, e.counts())
	return save(args[1], e.plan.files)
}

func newExerciser(dir string, seed uint64) (*exerciser, error) {
	e := &exerciser{r: rand.New(rand.NewPCG(seed, 2))}
	var models [2]*content
	for n := range e.files {
		f := &openFile{path: filepath.Join(dir, "file"+strconv.Itoa(n)), model: newContent()}
		if err := f.open(unix.O_CREAT | unix.O_EXCL); err != nil {
			return nil, err
		}
		e.files[n], models[n] = f, f.model
	}
	var err error
	if e.buffer, err = unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, err
	}
	if e.can, err = e.files[0].abilities(e.buffer); err != nil {
		return nil, err
	}
	e.want = make([]byte, len(e.buffer))
	e.plan = newPlanner(seed, e.can, models)
	return e, nil
}

// abilities tries what not every file system has, on the empty file, and leaves it empty.
func (f *openFile) abilities(aligned []byte) (can abilities, err error) {
	if _, err = unix.Pwrite(f.buffered, aligned[:4*pageSize], 0); err != nil {
		return can, err
	}
	try := func(err error) (bool, error) {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			return false, nil
		}
		return err == nil, err
	}
	var errs [3]error
	can.Collapse, errs[0] = try(unix.Fallocate(f.buffered, unix.FALLOC_FL_COLLAPSE_RANGE, pageSize, pageSize))
	can.Insert, errs[1] = try(unix.Fallocate(f.buffered, unix.FALLOC_FL_INSERT_RANGE, pageSize, pageSize))
	_, ragged := unix.Pwrite(f.direct, aligned[:100], 3)
	can.DirectRagged, errs[2] = try(ragged)
	return can, errors.Join(errors.Join(errs[:]...), unix.Ftruncate(f.buffered, 0))
}

func (f *openFile) open(flags int) (err error) {
	if f.buffered, err = unix.Open(f.path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0o644); err != nil {
		return fmt.Errorf("open %s: %w", f.path, err)
	}
	if f.direct, err = unix.Open(f.path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_DIRECT, 0); err != nil {
		return fmt.Errorf("open %s with O_DIRECT: %w", f.path, err)
	}
	if f.append, err = unix.Open(f.path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_APPEND, 0); err != nil {
		return fmt.Errorf("open %s with O_APPEND: %w", f.path, err)
	}
	return nil
}

func (f *openFile) close() error {
	return errors.Join(unix.Close(f.buffered), unix.Close(f.direct), unix.Close(f.append))
}

// unmap ends the map that stays.
func (f *openFile) unmap() error {
	if f.held == nil {
		return nil
	}
	held := f.held
	f.held = nil
	return errors.Join(unix.Msync(held, unix.MS_SYNC), unix.Munmap(held))
}

// step does the next operation, and compares what is cheap.
func (e *exerciser) step() error {
	o := e.plan.next()
	e.log = append(e.log, o)
	e.counted[o.kind]++
	if err := e.perform(o); err != nil {
		return err
	}
	f := e.files[o.file]
	if o.kind == opCopy {
		f = e.files[o.to]
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.buffered, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Size != f.model.Size {
		return &mismatch{where: "fstat after " + o.kind.String(), file: f.path, off: min(st.Size, f.model.Size),
			text: fmt.Sprintf("the size is %#x, want %#x", st.Size, f.model.Size)}
	}
	if o.kind == opCopy || e.r.IntN(5) > 0 {
		return nil
	}
	// What was just done, with a little before and behind it, as the sidecar has it.
	from := max(0, o.off-5000)
	if e.r.IntN(2) == 0 {
		if err := f.drop(); err != nil {
			return err
		}
	}
	return e.same(f, f.buffered, from, min(o.length+10000, int64(len(e.buffer))), "read back after "+o.kind.String())
}

// fill makes content that says which operation wrote it, and where.
func fill(b []byte, off int64, n, file int) {
	const mask = 0x5aa5c33c96699669 // so that few bytes are zero
	var word [8]byte
	for i := 0; i < len(b); {
		at := off + int64(i)
		binary.LittleEndian.PutUint64(word[:], (uint64(at>>3)&(1<<40-1)|uint64(n)<<41|uint64(file)<<40)^mask)
		i += copy(b[i:], word[at&7:])
	}
}

// writer reads from eight bytes what fill put there.
func writer(b []byte) string {
	if isZero(b) {
		return "zeros"
	}
	w := binary.LittleEndian.Uint64(b) ^ 0x5aa5c33c96699669
	return fmt.Sprintf("% x: of operation %d on file %d for %#x (or a mix)", b, w>>41, w>>40&1, (w&(1<<40-1))<<3)
}

func (e *exerciser) counts() string {
	var b strings.Builder
	for k, n := range e.counted {
		fmt.Fprintf(&b, "%v %d, ", kind(k), n)
	}
	return strings.TrimSuffix(b.String(), ", ")
}
