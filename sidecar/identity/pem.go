package identity

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Credentials are what a process needs to show who it is, and to check others.
type Credentials struct {
	Chain []*x509.Certificate // its certificate, then those between it and a root
	Key   crypto.Signer
	Roots []*x509.Certificate // whom it trusts
}

// Files of a process's directory.
const (
	identityFile = "identity.pem" // the chain, and the key: one file, so that they change in one step
)

// Write puts credentials into a directory, for Open. Each file is replaced in one step, the roots first: a reader that finds the
// old certificate beside the new roots still trusts what it trusted.
func Write(dir string, c *Credentials) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	if err := writePEM(filepath.Join(dir, rootsFile), 0o644, c.Roots, nil); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, identityFile), 0o600, c.Chain, c.Key)
}

// writePEM replaces a file in one step: whoever reads it, and whatever crashes, finds all of the old one or all of the new one.
func writePEM(path string, mode os.FileMode, certs []*x509.Certificate, key crypto.Signer) (err error) {
	var b bytes.Buffer
	for _, c := range certs {
		err = errors.Join(err, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	if key != nil {
		der, keyErr := x509.MarshalPKCS8PrivateKey(key)
		err = errors.Join(err, keyErr, pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error is the one to tell
		}
	}()
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// maxPEM bounds what is read of a file: a thousand volumes in a certificate are 100 KiB.
const maxPEM = 1 << 20

// readPEM reads certificates and at most one key.
func readPEM(path string) (certs []*x509.Certificate, key crypto.Signer, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	if len(b) > maxPEM {
		return nil, nil, fmt.Errorf("%s: %d bytes; at most %d are expected", path, len(b), maxPEM)
	}
	certs, key, err = parsePEM(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, key, nil
}

func parsePEM(b []byte) (certs []*x509.Certificate, key crypto.Signer, err error) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, c)
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			signer, ok := k.(crypto.Signer)
			if !ok || key != nil {
				return nil, nil, errors.New("more than one private key, or one that cannot sign")
			}
			key = signer
		default:
			return nil, nil, fmt.Errorf("a PEM block of type %q; allowed: CERTIFICATE, PRIVATE KEY", block.Type)
		}
	}
	if len(bytes.TrimSpace(b)) > 0 || len(certs) == 0 {
		return nil, nil, errors.New("not PEM, cut off, or without a certificate")
	}
	return certs, key, nil
}

func samePublic(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}
