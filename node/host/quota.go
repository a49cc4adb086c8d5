package host

import (
	"errors"
	"fmt"
	"hash/fnv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoQuota: the file system has no project quotas, or they are switched off.
var ErrNoQuota = errors.New("the file system has no project quotas (mount it with prjquota)")

// From linux/fs.h, linux/quota.h and linux/dqblk_xfs.h.
const (
	ioctlGetXattr = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlSetXattr = 0x401c5820 // FS_IOC_FSSETXATTR
	projInherit   = 0x200      // FS_XFLAG_PROJINHERIT

	prjQuota     = 2
	qXSetLimit   = 0x5804 // Q_XSETQLIM
	qSetQuota    = 0x800008
	qifBLimits   = 1
	xfsVersion   = 1
	xfsProject   = 2      // FS_PROJ_QUOTA
	xfsBlockHard = 1 << 3 // FS_DQ_BHARD
	quotaBlock   = 1024   // QIF_DQBLKSIZE
	xfsBlock     = 512
)

type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	pad                                           [8]byte
}

// ifDqblk is struct if_dqblk.
type ifDqblk struct {
	bhardlimit, bsoftlimit, curspace, ihardlimit, isoftlimit, curinodes, btime, itime uint64
	valid                                                                             uint32
	_                                                                                 uint32
}

// fsDiskQuota is struct fs_disk_quota.
type fsDiskQuota struct {
	version                                            int8
	flags                                              int8
	fieldmask                                          uint16
	id                                                 uint32
	blkHard, blkSoft, inoHard, inoSoft, bcount, icount uint64
	itimer, btimer                                     int32
	iwarns, bwarns                                     uint16
	itimerHi, btimerHi, rtbtimerHi                     int8
	pad2                                               int8
	rtbHard, rtbSoft, rtbcount                         uint64
	rtbtimer                                           int32
	rtbwarns                                           uint16
	pad3                                               int16
	pad4                                               [8]byte
}

// ProjectID names a directory's project: above what people number by hand, and the same after every restart.
func ProjectID(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return 1<<30 | h.Sum32()&(1<<30-1)
}

// Limit bounds what the directory and everything in it may hold. Where the file system cannot, it is ErrNoQuota and the directory is as it
// was.
func Limit(d *Dir, project uint32, bytes int64) error {
	r, err := d.open(".", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := setLimit(r, project, bytes); err != nil {
		return err
	}
	var x fsxattr
	if err := ioctl(r.fd(), ioctlGetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoQuota, d.path, err)
	}
	if x.projid == project && x.xflags&projInherit != 0 {
		return nil
	}
	x.projid, x.xflags = project, x.xflags|projInherit
	if err := ioctl(r.fd(), ioctlSetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("project of %s: %w", d.path, err)
	}
	return nil
}

// setLimit asks ext4's way and then XFS's.
func setLimit(d *Dir, project uint32, bytes int64) error {
	generic := ifDqblk{bhardlimit: uint64((bytes + quotaBlock - 1) / quotaBlock), valid: qifBLimits}
	err := quotactl(d.fd(), qSetQuota<<8|prjQuota, project, unsafe.Pointer(&generic))
	if err == nil {
		return nil
	}
	xfs := fsDiskQuota{version: xfsVersion, flags: xfsProject, fieldmask: xfsBlockHard, id: project, blkHard: uint64((bytes + xfsBlock - 1) / xfsBlock)}
	if errX := quotactl(d.fd(), qXSetLimit<<8|prjQuota, project, unsafe.Pointer(&xfs)); errX != nil {
		return fmt.Errorf("%w: %s: %w; %w", ErrNoQuota, d.path, err, errX)
	}
	return nil
}

// quotactl is quotactl_fd(2) (Linux 5.14).
func quotactl(fd int, cmd uint32, id uint32, addr unsafe.Pointer) error {
	_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), uintptr(cmd), uintptr(id), uintptr(addr), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if e != 0 {
		return e
	}
	return nil
}
