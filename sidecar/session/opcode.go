package session

import "github.com/remora-storage/remora/telemetry"

// opOf names the operation of an opcode of linux/fuse.h.
func opOf(opcode uint32) telemetry.Op {
	if op, ok := opcodes[opcode]; ok {
		return op
	}
	return telemetry.OpOther
}

var opcodes = map[uint32]telemetry.Op{
	1: telemetry.OpLookup, 2: telemetry.OpForget, 3: telemetry.OpGetattr, 4: telemetry.OpSetattr, 5: telemetry.OpReadlink,
	6: telemetry.OpSymlink, 8: telemetry.OpMknod, 9: telemetry.OpMkdir, 10: telemetry.OpUnlink, 11: telemetry.OpRmdir,
	12: telemetry.OpRename, 13: telemetry.OpLink, 14: telemetry.OpOpen, 15: telemetry.OpRead, 16: telemetry.OpWrite,
	17: telemetry.OpStatfs, 18: telemetry.OpRelease, 20: telemetry.OpFsync, 21: telemetry.OpSetxattr, 22: telemetry.OpGetxattr,
	23: telemetry.OpListxattr, 24: telemetry.OpRemovexattr, 25: telemetry.OpFlush, 26: telemetry.OpInit, 27: telemetry.OpOpendir,
	28: telemetry.OpReaddir, 29: telemetry.OpReleasedir, 30: telemetry.OpFsyncdir, 31: telemetry.OpGetlk, 32: telemetry.OpSetlk,
	33: telemetry.OpSetlk, 34: telemetry.OpAccess, 35: telemetry.OpCreate, opInterrupt: telemetry.OpInterrupt, 37: telemetry.OpBmap,
	38: telemetry.OpDestroy, 39: telemetry.OpIoctl, 40: telemetry.OpPoll, 42: telemetry.OpForget, 43: telemetry.OpFallocate,
	44: telemetry.OpReaddirplus, 45: telemetry.OpRename, 46: telemetry.OpLseek, 47: telemetry.OpCopyFileRange,
	50: telemetry.OpSyncfs, 51: telemetry.OpTmpfile, 52: telemetry.OpStatx, 53: telemetry.OpCopyFileRange,
}
