package meta

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// Names of the extended attributes that hold ACLs.
const (
	XattrAccessACL  = "system.posix_acl_access"
	XattrDefaultACL = "system.posix_acl_default"
)

// ACLTag says for whom an entry of an ACL is; the numbers reach the disk (they are those of linux/posix_acl.h).
type ACLTag uint16

// Tags of ACL entries.
const (
	ACLUserObj  ACLTag = 0x01 // the owner
	ACLUser     ACLTag = 0x02 // a user by ID
	ACLGroupObj ACLTag = 0x04 // the file's group
	ACLGroup    ACLTag = 0x08 // a group by ID
	ACLMask     ACLTag = 0x10 // the most that named users, named groups and the file's group get
	ACLOther    ACLTag = 0x20
)

// ACLEntry gives rights to somebody.
type ACLEntry struct {
	Tag  ACLTag
	Perm uint16 // rwx, 3 bits
	ID   uint32 // of ACLUser and ACLGroup; the others have 0xffffffff
}

// ACL is a POSIX access control list: entries in the order of their tags, as the kernel hands them over.
type ACL []ACLEntry

const (
	aclVersion   = 2
	aclHeader    = 4
	aclEntrySize = 8
)

// Append encodes a as the value of its extended attribute, which is the kernel's format (linux/posix_acl_xattr.h).
func (a ACL) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, aclVersion)
	for _, e := range a {
		b = le.AppendUint16(b, uint16(e.Tag))
		b = le.AppendUint16(b, e.Perm)
		b = le.AppendUint32(b, e.ID)
	}
	return b
}

// DecodeACL reads what Append wrote. Every ACL has one entry each for the owner, the group and all others, and a mask if it names
// somebody.
func DecodeACL(b []byte) (ACL, error) {
	le := binary.LittleEndian
	if len(b) < aclHeader || (len(b)-aclHeader)%aclEntrySize != 0 || le.Uint32(b) != aclVersion {
		return nil, malformed("ACL", b)
	}
	a := make(ACL, 0, (len(b)-aclHeader)/aclEntrySize)
	seen, twice := ACLTag(0), false
	for p := b[aclHeader:]; len(p) > 0; p = p[aclEntrySize:] {
		e := ACLEntry{ACLTag(le.Uint16(p)), le.Uint16(p[2:]), le.Uint32(p[4:])}
		switch e.Tag {
		case ACLUserObj, ACLGroupObj, ACLMask, ACLOther:
			twice = twice || seen&e.Tag != 0
		case ACLUser, ACLGroup:
		default:
			return nil, malformed("ACL", b)
		}
		if e.Perm > 7 || twice {
			return nil, malformed("ACL", b)
		}
		seen |= e.Tag
		a = append(a, e)
	}
	const needed = ACLUserObj | ACLGroupObj | ACLOther
	if seen&needed != needed || seen&(ACLUser|ACLGroup) != 0 && seen&ACLMask == 0 {
		return nil, malformed("ACL", b)
	}
	return a, nil
}

// String lists the entries as getfacl does, with numbers for names.
func (a ACL) String() string {
	names := map[ACLTag]string{ACLUserObj: "user", ACLUser: "user", ACLGroupObj: "group", ACLGroup: "group", ACLMask: "mask", ACLOther: "other"}
	var all []string
	for _, e := range a {
		id := ""
		if e.Tag == ACLUser || e.Tag == ACLGroup {
			id = strconv.FormatUint(uint64(e.ID), 10)
		}
		perm := []byte("rwx")
		for i := range perm {
			if e.Perm&(4>>i) == 0 {
				perm[i] = '-'
			}
		}
		all = append(all, names[e.Tag]+":"+id+":"+string(perm))
	}
	return strings.Join(all, ",")
}

// Mode returns the permissions that stat shows for a: the group's are those of the mask, if there is one. Unless extended, the mode
// says all that a says.
func (a ACL) Mode() (perm uint32, extended bool) {
	group := uint32(0)
	for _, e := range a {
		switch p := uint32(e.Perm); e.Tag {
		case ACLUserObj:
			perm |= p << 6
		case ACLGroupObj:
			group = p
		case ACLOther:
			perm |= p
		}
	}
	if m := a.mask(); m != nil {
		group, extended = uint32(m.Perm), true
	}
	return perm | group<<3, extended
}

// Chmod returns a as chmod leaves it: owner, others, and the mask, or the group if there is no mask, get what mode says.
func (a ACL) Chmod(mode uint32) ACL {
	return a.with(func(old, perm uint16) uint16 { return perm }, mode)
}

// Inherit returns the access ACL of something that is made with mode in a directory whose default ACL is a: nobody gets more than mode
// gives the class that he is in.
func (a ACL) Inherit(mode uint32) ACL {
	return a.with(func(old, perm uint16) uint16 { return old & perm }, mode)
}

// with changes the entries that stand for a class of mode.
func (a ACL) with(change func(old, perm uint16) uint16, mode uint32) ACL {
	b := append(ACL{}, a...)
	masked := b.mask() != nil
	for i := range b {
		e := &b[i]
		switch {
		case e.Tag == ACLUserObj:
			e.Perm = change(e.Perm, uint16(mode>>6&7))
		case e.Tag == ACLMask || e.Tag == ACLGroupObj && !masked:
			e.Perm = change(e.Perm, uint16(mode>>3&7))
		case e.Tag == ACLOther:
			e.Perm = change(e.Perm, uint16(mode&7))
		}
	}
	return b
}

func (a ACL) mask() *ACLEntry {
	for i := range a {
		if a[i].Tag == ACLMask {
			return &a[i]
		}
	}
	return nil
}
