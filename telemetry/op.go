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

// The stages. The bucket gets its own with the issue that brings it.
const (
	StageOther   Stage = iota
	StageQueue         // waited before it could begin: for room, or for other changes
	StageOverlay       // the record was made
	StageJournal       // its payload was written to the journal, unsynced; of a replica's answer: the sync of its journal
	StageCommit        // waited for acceptance: the group commit that the request links to
	StageFetch         // fetched content that is not on this node
	numStages
)

var stageNames = [numStages]string{
	StageOther: "other", StageQueue: "queue", StageOverlay: "overlay", StageJournal: "journal", StageCommit: "commit", StageFetch: "fetch",
}

// String is the name of the child span: "journal".
func (s Stage) String() string {
	if s >= numStages {
		s = StageOther
	}
	return stageNames[s]
}
