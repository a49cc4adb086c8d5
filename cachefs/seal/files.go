package seal

import "crypto/cipher"

// FileSaltSize of a file's salt, bytes.
const FileSaltSize = 32

// File returns what seals the frames of one file: a subkey of the volume's key and the file's salt, which is drawn when the file is
// made. Nonces are frame numbers: a file is written once, from start to end.
func (k *Keys) File(salt []byte) (cipher.AEAD, error) {
	return derive(k.key, salt, "remora/v1/file")
}
