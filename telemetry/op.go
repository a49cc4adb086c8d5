package telemetry

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Op is a FUSE operation that Remora serves. Its String is the value of the attribute and label "op"; the span is
// named "fuse." and that. The numbers are internal: they reach no disk and no wire.
type Op uint8

// The operations, in the order of their numbers in linux/fuse.h as far as that has one.
const (
	OpOther Op = iota // an operation without a name here
	OpLookup
	OpForget
	OpGetattr
	OpSetattr
	OpReadlink
	OpSymlink
	OpMknod
	OpMkdir
	OpUnlink
	OpRmdir
	OpRename
	OpLink
	OpOpen
	OpRead
	OpWrite
	OpStatfs
	OpRelease
	OpFsync
	OpSetxattr
	OpGetxattr
	OpListxattr
	OpRemovexattr
	OpFlush
	OpInit
	OpOpendir
	OpReaddir
	OpReleasedir
	OpFsyncdir
	OpGetlk
	OpSetlk
	OpAccess
	OpCreate
	OpInterrupt
	OpBmap
	OpDestroy
	OpIoctl
	OpPoll
	OpFallocate
	OpReaddirplus
	OpLseek
	OpCopyFileRange
	OpSyncfs
	OpTmpfile
	OpStatx
	OpResend
	numOps
)

var opNames = [numOps]string{
	OpOther: "other", OpLookup: "lookup", OpForget: "forget", OpGetattr: "getattr", OpSetattr: "setattr",
	OpReadlink: "readlink", OpSymlink: "symlink", OpMknod: "mknod", OpMkdir: "mkdir", OpUnlink: "unlink",
	OpRmdir: "rmdir", OpRename: "rename", OpLink: "link", OpOpen: "open", OpRead: "read", OpWrite: "write",
	OpStatfs: "statfs", OpRelease: "release", OpFsync: "fsync", OpSetxattr: "setxattr", OpGetxattr: "getxattr",
	OpListxattr: "listxattr", OpRemovexattr: "removexattr", OpFlush: "flush", OpInit: "init", OpOpendir: "opendir",
	OpReaddir: "readdir", OpReleasedir: "releasedir", OpFsyncdir: "fsyncdir", OpGetlk: "getlk", OpSetlk: "setlk",
	OpAccess: "access", OpCreate: "create", OpInterrupt: "interrupt", OpBmap: "bmap", OpDestroy: "destroy",
	OpIoctl: "ioctl", OpPoll: "poll", OpFallocate: "fallocate", OpReaddirplus: "readdirplus", OpLseek: "lseek",
	OpCopyFileRange: "copy_file_range", OpSyncfs: "syncfs", OpTmpfile: "tmpfile", OpStatx: "statx",
	OpResend: "resend",
}

var opSpanNames = func() (names [numOps]string) {
	for op := range names {
		names[op] = "fuse." + opNames[op]
	}
	return names
}()

// String is the operation's name in spans and metrics: "write", "copy_file_range".
func (o Op) String() string { return opNames[o.valid()] }

func (o Op) valid() Op {
	if o >= numOps {
		return OpOther
	}
	return o
}

// moves reports whether a successful request of this kind transfers as many bytes as its range is long.
func (o Op) moves() bool { return o == OpRead || o == OpWrite || o == OpCopyFileRange }

// expected reports whether errno is an ordinary answer to the operation: a file that is not there, an attribute that
// is not set, the end of the data. Such an answer is counted under its errno, but its span has no error status and
// slow mode does not keep it. ENOSYS and EOPNOTSUPP are how a FUSE server tells the kernel not to ask again.
func expected(op Op, errno syscall.Errno) bool {
	switch errno {
	case 0, syscall.ENOSYS, syscall.EOPNOTSUPP:
		return true
	case syscall.ENOENT:
		return op == OpLookup
	case syscall.ENODATA:
		return op == OpGetxattr || op == OpRemovexattr
	case syscall.ERANGE: // the caller's buffer is short; it asks again
		return op == OpGetxattr || op == OpListxattr
	case syscall.EACCES:
		return op == OpAccess
	case syscall.ENXIO: // no data or hole after the offset
		return op == OpLseek
	case syscall.EEXIST: // O_EXCL and mkdir -p
		return op == OpCreate || op == OpMkdir
	case syscall.ENOTTY: // isatty(3)
		return op == OpIoctl
	}
	return false
}

// maxErrno is above the largest errno of Linux (133, EHWPOISON).
const maxErrno = 134

// errnoNames holds "EIO" and so on; where Linux has no such errno, and at 0, semconv's "_OTHER".
var errnoNames = func() (names [maxErrno]string) {
	for i := range names {
		names[i] = "_OTHER"
		if n := unix.ErrnoName(syscall.Errno(i)); i > 0 && n != "" {
			names[i] = n
		}
	}
	return names
}()

func errnoName(errno int32) string {
	if errno <= 0 || errno >= maxErrno {
		return errnoNames[0]
	}
	return errnoNames[errno]
}

// Stage is a part of a request that becomes a child span named by its String.
type Stage uint8

// The stages. A cache miss, a peer and the bucket get their own with the issues that bring them.
const (
	StageOther   Stage = iota
	StageOverlay       // the record was made and put in the overlay
	StageJournal       // its payload was written to the journal, unsynced
	StageCommit        // waited for acceptance: the group commit that the request links to
	StageApply         // waited for the applier
	StageRead          // read blocks from overlay, store and arena
	StageQueue         // waited for room: more unaccepted bytes than the bound
	StagePeer          // one peer
	StageFetch         // fetched a blob that is not on this node
	StageBucket        // one request to the bucket
	numStages
)

var stageNames = [numStages]string{
	StageOther: "other", StageOverlay: "overlay", StageJournal: "journal", StageCommit: "commit",
	StageApply: "apply", StageRead: "read", StageQueue: "queue", StagePeer: "peer", StageFetch: "fetch",
	StageBucket: "bucket",
}

// String is the name of the child span: "journal".
func (s Stage) String() string {
	if s >= numStages {
		s = StageOther
	}
	return stageNames[s]
}
