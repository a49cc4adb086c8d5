package seal

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// ParseKeyFile reads the content of a key file: a key as hexadecimal digits, and white space.
func ParseKeyFile(text []byte) ([]byte, error) {
	key, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("want %d hexadecimal digits", 2*KeySize)
	}
	return key, nil
}
