// Package seal makes what leaves memory unreadable without the volume's key, and unchangeable without notice: blocks of content,
// records of the log, and the files of the metadata store (FORMAT.md). A nil *Keys is a volume whose class switches sealing off: it
// has checksums alone.
//
// A volume has one key. Each incarnation of its owner draws a salt and seals with the subkey HKDF(key, salt); its nonces are
// incarnation, seq of the record, and a number n in the record. An incarnation is never started twice and names a record once, so no
// nonce is used twice with one subkey. The additional data of a block name tenant, key, and the blob and block it was sealed for; those
// of a record are its whole header: what was moved, or is of another volume, does not open.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/remora-storage/remora/cachefs/record"
)

// KeySize of a volume's key, bytes.
const KeySize = 32

// SaltSize of an incarnation's salt, bytes.
const SaltSize = 32

// ErrDamaged: the checksum does not fit. The bytes are not those that were sealed.
var ErrDamaged = errors.New("block is damaged")

// ErrWrongKey: the bytes are those that were sealed, and this key does not open them.
var ErrWrongKey = errors.New("block does not open with this key: it is of another volume, or another place")

// Keys seals and opens what belongs to one volume. It is safe for concurrent use.
type Keys struct {
	key    []byte
	id     [8]byte
	suffix []byte // tenant and key ID: the end of all additional data

	// Audit is told every nonce before it is used; tests set it before the first use.
	Audit func(i record.Incarnation, nonce [12]byte)

	newest atomic.Pointer[subkey] // that was asked for last: nearly always the one that is needed

	mu   sync.RWMutex
	subs map[record.Incarnation]cipher.AEAD
	salt func(record.Incarnation) ([]byte, error)
}

// subkey is what seals and opens what is of an incarnation.
type subkey struct {
	of   record.Incarnation
	aead cipher.AEAD
}

// New makes the Keys of a volume of a tenant. The salts of incarnations come from Learn or, where that was not called, from salt.
func New(key []byte, tenant string) (*Keys, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("key of %d bytes, want %d", len(key), KeySize)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("remora/v1/key-id"))
	k := &Keys{key: append([]byte(nil), key...), subs: map[record.Incarnation]cipher.AEAD{}}
	copy(k.id[:], mac.Sum(nil))
	k.suffix = append(append([]byte(nil), k.id[:]...), tenant...)
	return k, nil
}

// ID names the key without telling it: 16 hexadecimal digits, or "" where sealing is off.
func (k *Keys) ID() string {
	if k == nil {
		return ""
	}
	return hex.EncodeToString(k.id[:])
}

// Sealer is k as what seals records; nil where sealing is off.
func (k *Keys) Sealer() record.Sealer {
	if k == nil {
		return nil
	}
	return k
}

// SaltsFrom says where the salt of an incarnation is found that was not learnt.
func (k *Keys) SaltsFrom(salt func(record.Incarnation) ([]byte, error)) {
	if k == nil {
		return
	}
	k.mu.Lock()
	k.salt = salt
	k.mu.Unlock()
}

// Learn notes the salt of an incarnation.
func (k *Keys) Learn(i record.Incarnation, salt []byte) error {
	if k == nil {
		return nil
	}
	sub, err := derive(k.key, salt, "remora/v1/seal")
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.subs[i] = sub
	k.newest.Store(nil)
	k.mu.Unlock()
	return nil
}

func derive(key, salt []byte, info string) (cipher.AEAD, error) {
	sub, err := hkdf.Key(sha256.New, key, salt, info, KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return cipher.NewGCM(block)
}

// sub is the subkey of an incarnation.
func (k *Keys) sub(i record.Incarnation) (cipher.AEAD, error) {
	if newest := k.newest.Load(); newest != nil && newest.of == i {
		return newest.aead, nil
	}
	k.mu.RLock()
	sub, ok := k.subs[i]
	salt := k.salt
	if ok {
		k.newest.Store(&subkey{i, sub}) // under the lock: Learn comes before or after
	}
	k.mu.RUnlock()
	if ok {
		return sub, nil
	}
	if salt == nil {
		return nil, fmt.Errorf("%w: no salt of incarnation %d", ErrWrongKey, i)
	}
	b, err := salt(i)
	if err != nil {
		return nil, fmt.Errorf("salt of incarnation %d: %w", i, err)
	}
	if err := k.Learn(i, b); err != nil {
		return nil, err
	}
	return k.sub(i)
}

// Knows returns nil if there is a salt of an incarnation: what was sealed under it can be opened.
func (k *Keys) Knows(i record.Incarnation) error {
	if k == nil {
		return nil
	}
	_, err := k.sub(i)
	return err
}

// nonce is incarnation u32, seq u48, n u16.
func nonce(i record.Incarnation, s record.Seq, n uint16) (b [12]byte) {
	binary.LittleEndian.PutUint32(b[:], uint32(i))
	binary.LittleEndian.PutUint64(b[4:], uint64(s))
	binary.LittleEndian.PutUint16(b[10:], n)
	return b
}

// blockData is the additional data of a block.
func (k *Keys) blockData(b []byte, s *record.Seal) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Origin))
	b = binary.LittleEndian.AppendUint32(b, s.Block)
	return append(b, k.suffix...)
}

const tagSize = 16

// scratch has room for a block and its tag, and for additional data.
type scratch struct {
	ad    [256]byte
	iv    [12]byte
	block [record.BlockSize + tagSize]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Spare is how much more room than for the block it is good to give to Block.
const Spare = tagSize

// Block seals a block into the first bytes of dst and completes its seal, which has everything but tag, checksum and flags. Where dst has
// Spare bytes more, they are overwritten, and nothing is copied. Block and dst do not overlap.
func (k *Keys) Block(s *record.Seal, dst, block []byte) error {
	stored := dst[:len(block)]
	if k == nil {
		copy(stored, block)
		s.CRC = record.Checksum(stored)
		return nil
	}
	sub, err := k.sub(s.Incarnation)
	if err != nil {
		return err
	}
	m := scratches.Get().(*scratch)
	defer scratches.Put(m)
	m.iv = nonce(s.Incarnation, s.Seq, s.N)
	if k.Audit != nil {
		k.Audit(s.Incarnation, m.iv)
	}
	room := m.block[:]
	if len(dst) >= len(block)+Spare {
		room = dst
	}
	sealed := sub.Seal(room[:0:len(block)+Spare], m.iv[:], block, k.blockData(m.ad[:0], s))
	if len(dst) < len(sealed) {
		copy(stored, sealed)
	}
	copy(s.Tag[:], sealed[len(block):])
	s.Flags = record.Sealed
	s.CRC = record.Checksum(stored)
	return nil
}

// OpenBlock checks a block against its seal and opens it in place. After an error the block is void.
func (k *Keys) OpenBlock(s *record.Seal, block []byte) error {
	if record.Checksum(block) != s.CRC {
		return ErrDamaged
	}
	if (k != nil) != (s.Flags&record.Sealed != 0) {
		return ErrWrongKey // what a volume with a key writes is sealed: anything else was put here by somebody else
	}
	if k == nil {
		return nil
	}
	sub, err := k.sub(s.Incarnation)
	if err != nil {
		return err
	}
	m := scratches.Get().(*scratch)
	defer scratches.Put(m)
	m.iv = nonce(s.Incarnation, s.Seq, s.N)
	sealed := append(append(m.block[:0], block...), s.Tag[:]...)
	if _, err := sub.Open(block[:0], m.iv[:], sealed, k.blockData(m.ad[:0], s)); err != nil {
		return ErrWrongKey
	}
	return nil
}

// Record seals the part of a record behind its header, in place; header is the additional data. The tag goes with it.
func (k *Keys) Record(n record.Name, sealN uint16, header, body []byte) (tag [tagSize]byte, err error) {
	sub, err := k.sub(n.Incarnation)
	if err != nil {
		return tag, err
	}
	m := scratches.Get().(*scratch)
	defer scratches.Put(m)
	m.iv = nonce(n.Incarnation, n.Seq, sealN)
	if k.Audit != nil {
		k.Audit(n.Incarnation, m.iv)
	}
	sealed := sub.Seal(m.block[:0], m.iv[:], body, append(append(m.ad[:0], header...), k.suffix...))
	copy(body, sealed)
	copy(tag[:], sealed[len(body):])
	return tag, nil
}

// OpenRecord opens what Record sealed, and appends it to dst.
func (k *Keys) OpenRecord(dst []byte, n record.Name, sealN uint16, header, body, tag []byte) ([]byte, error) {
	if k == nil {
		return nil, ErrWrongKey
	}
	sub, err := k.sub(n.Incarnation)
	if err != nil {
		return nil, err
	}
	m := scratches.Get().(*scratch)
	defer scratches.Put(m)
	m.iv = nonce(n.Incarnation, n.Seq, sealN)
	plain, err := sub.Open(dst, m.iv[:], append(append(m.block[:0], body...), tag...), append(append(m.ad[:0], header...), k.suffix...))
	if err != nil {
		return nil, fmt.Errorf("record %v: %w", n, ErrWrongKey)
	}
	return plain, nil
}
