package replicationtest

import (
	"fmt"
	"syscall"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// All ACLs of a history have the same entries: owner, user 5 (who may do all), group (who may do nothing), mask, others. So a mode tells
// the whole of one.
func aclOf(mode uint32) string {
	perm := func(shift int) uint16 { return uint16(mode >> shift & 7) }
	const nobody = 0xffffffff
	return string(meta.ACL{{Tag: meta.ACLUserObj, Perm: perm(6), ID: nobody}, {Tag: meta.ACLUser, Perm: 7, ID: 5}, {Tag: meta.ACLGroupObj, ID: nobody},
		{Tag: meta.ACLMask, Perm: perm(3), ID: nobody}, {Tag: meta.ACLOther, Perm: perm(0), ID: nobody}}.Append(nil))
}

// modeOf is the mode of which aclOf made an ACL.
func modeOf(acl string) uint32 { return uint32(acl[6])<<6 | uint32(acl[30])<<3 | uint32(acl[38]) }

// setMode changes the permissions, and the ACL if there is one.
func (n *modelNode) setMode(perm uint32) {
	n.mode = n.mode&^0o777 | perm
	if _, ok := n.xattrs[meta.XattrAccessACL]; ok {
		n.xattrs[meta.XattrAccessACL] = aclOf(perm)
	}
}

// inherit gives a new node what the default ACL of its directory says.
func (n *modelNode) inherit(dir *modelNode) {
	acl, ok := dir.xattrs[meta.XattrDefaultACL]
	if !ok || n.target != "" {
		return
	}
	n.xattrs[meta.XattrAccessACL] = acl // any; setMode says which
	n.setMode(n.mode & 0o777 & modeOf(acl))
	if n.mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.xattrs[meta.XattrDefaultACL] = acl
	}
}

// other is a file or a directory, not the root.
func (h *History) other() (string, *modelNode) {
	if dirs := h.model.dirs(); len(dirs) > 1 && h.rng.IntN(2) == 0 {
		path := pick(h.rng, dirs[1:])
		return path, h.model.nodes[path]
	}
	return h.file()
}

func (h *History) chmod() {
	path, n := h.other()
	if n == nil {
		return
	}
	perm := uint32(h.rng.IntN(0o1000))
	_, err := h.on().SetAttr(h.caller(), h.ino(path), cachefs.SetAttr{Mode: &perm})
	require.NoError(h.t, err)
	n.setMode(perm)
}

func (h *History) acl() {
	path, n := h.other()
	if n == nil {
		return
	}
	name := meta.XattrAccessACL
	if n.mode&syscall.S_IFMT == syscall.S_IFDIR && h.rng.IntN(3) > 0 {
		name = meta.XattrDefaultACL
	}
	if _, ok := n.xattrs[name]; ok && h.rng.IntN(3) == 0 {
		require.NoError(h.t, h.on().RemoveXattr(h.caller(), h.ino(path), name))
		delete(n.xattrs, name)
		return
	}
	perm := uint32(h.rng.IntN(0o1000))
	require.NoError(h.t, h.on().SetXattr(h.caller(), h.ino(path), name, []byte(aclOf(perm)), 0), fmt.Sprintf("%o", perm))
	n.xattrs[name] = aclOf(perm)
	if name == meta.XattrAccessACL {
		n.setMode(perm)
	}
}

// copyRange copies bytes that are known to be in one segment of data, so that it is one record.
func (h *History) copyRange() {
	from, src := h.file()
	to, dst := h.file()
	if src == nil || src.written[0] == src.written[1] {
		return
	}
	off := src.written[0] + h.rng.IntN(src.written[1]-src.written[0])
	toOff, _ := h.extent(len(dst.data))
	n := min(1+h.rng.IntN(src.written[1]-off), record.ChunkSize-toOff%record.ChunkSize)
	if src == dst && off < toOff+n && toOff < off+n {
		return
	}
	got, err := h.on().CopyRange(h.caller(), h.ino(from), uint64(off), h.ino(to), uint64(toOff), uint64(n))
	require.NoError(h.t, err)
	require.Equal(h.t, n, got)
	dst.changes++
	data := append([]byte{}, src.data[off:off+n]...)
	dst.grow(toOff + n)
	copy(dst.data[toOff:], data)
}

func (h *History) zero() {
	path, n := h.file()
	if n == nil {
		return
	}
	off, count := h.extent(len(n.data))
	mode := uint32(cachefs.FallocZeroRange)
	if h.rng.IntN(2) == 0 {
		mode |= cachefs.FallocKeepSize
	} else if off < len(n.data) {
		count = min(count, len(n.data)-off) // zeros and a new size are two records, of which a crash may leave one
	}
	require.NoError(h.t, h.on().Fallocate(h.caller(), h.ino(path), mode, uint64(off), uint64(count)))
	if mode == cachefs.FallocZeroRange {
		n.grow(off + count)
	}
	for i := off; i < min(off+count, len(n.data)); i++ {
		n.data[i] = 0
	}
	n.changes++
	n.written = [2]int{}
}
