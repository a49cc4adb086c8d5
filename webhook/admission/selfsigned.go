package admission

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The lives of the self-signed certificates. A server's is made anew when a third of it is left, under the same authority, so
// that the API server notices nothing.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 90 * 24 * time.Hour
	// backdated is by how much a clock may be ahead when it makes a certificate, or behind when it looks at one.
	backdated = 24 * time.Hour
)

// selfSigned keeps an authority and a certificate in a Secret that all servers share, and the authority in the webhook
// configurations. Whoever comes first makes them; the others take what is there.
type selfSigned struct {
	SelfSigned
	client client.Client // uncached
	log    *slog.Logger

	current atomic.Pointer[tls.Certificate]
}

// GetCertificate is tls.Config's.
func (s *selfSigned) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("there is no certificate yet")
}

// run looks at the Secret and the configurations until ctx is done, again soon after a failure: the configurations may be applied
// after the Deployment, and another server may have been faster.
func (s *selfSigned) run(ctx context.Context) {
	every, soon := s.Every, time.Second
	if every == 0 {
		every = 30 * time.Second
	}
	for {
		wait := every
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			wait = min(every, soon)
			if !apierrors.IsConflict(err) {
				s.log.Warn("the self-signed certificate could not be looked after; the last one stays", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// look brings the certificate and the configurations up to date.
func (s *selfSigned) look(ctx context.Context) error {
	authority, err := s.certificate(ctx)
	if err != nil {
		return fmt.Errorf("secret %s/%s: %w", s.Namespace, s.Secret, err)
	}
	mutating := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := s.client.Get(ctx, client.ObjectKey{Name: s.Configuration}, mutating); err != nil {
		return err
	}
	before := mutating.DeepCopy()
	for i := range mutating.Webhooks {
		mutating.Webhooks[i].ClientConfig.CABundle = authority
	}
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	if err := s.client.Get(ctx, client.ObjectKey{Name: s.Configuration}, validating); err != nil {
		return err
	}
	beforeValidating := validating.DeepCopy()
	for i := range validating.Webhooks {
		validating.Webhooks[i].ClientConfig.CABundle = authority
	}
	return errors.Join(s.patch(ctx, mutating, before), s.patch(ctx, validating, beforeValidating))
}

// patch writes what differs, if anything does and nobody was faster.
func (s *selfSigned) patch(ctx context.Context, now, before client.Object) error {
	p := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	data, err := p.Data(now)
	if err != nil || !bytes.Contains(data, []byte("caBundle")) {
		return err
	}
	return s.client.Patch(ctx, now, p)
}

// certificate reads the Secret, makes or renews what is in it, and returns the authority.
func (s *selfSigned) certificate(ctx context.Context) (authority []byte, err error) {
	key := client.ObjectKey{Namespace: s.Namespace, Name: s.Secret}
	for range 5 { // lost races against the other servers
		secret := &corev1.Secret{}
		err = s.client.Get(ctx, key, secret)
		absent := apierrors.IsNotFound(err)
		if err != nil && !absent {
			return nil, err
		}
		changed, err2 := s.renew(secret)
		switch {
		case err2 != nil:
			return nil, err2
		case absent:
			secret.Namespace, secret.Name, secret.Type = s.Namespace, s.Secret, corev1.SecretTypeTLS
			err = s.client.Create(ctx, secret)
		case changed:
			err = s.client.Update(ctx, secret)
		}
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
		if err != nil {
			return nil, err
		}
		if old := s.current.Swap(&pair); old == nil || !bytes.Equal(old.Certificate[0], pair.Certificate[0]) {
			s.log.Info("serving with a self-signed certificate", "until", pair.Leaf.NotAfter)
		}
		return secret.Data[corev1.ServiceAccountRootCAKey], nil
	}
	return nil, err
}

const authorityKey = "ca.key"

// renew makes what is missing, unreadable or near its end, and says whether it did.
func (s *selfSigned) renew(secret *corev1.Secret) (changed bool, err error) {
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	d := secret.Data
	if d == nil {
		d = map[string][]byte{}
		secret.Data = d
	}
	authority, err := tls.X509KeyPair(d[corev1.ServiceAccountRootCAKey], d[authorityKey])
	if err != nil || now.Before(authority.Leaf.NotBefore) || now.After(authority.Leaf.NotAfter.Add(-certificateLife)) {
		changed = true
		d[corev1.ServiceAccountRootCAKey], d[authorityKey], err = issue(nil, now, authorityLife, "remora-webhook")
		if err != nil {
			return false, err
		}
		if authority, err = tls.X509KeyPair(d[corev1.ServiceAccountRootCAKey], d[authorityKey]); err != nil {
			return false, err
		}
	}
	name := s.Service + "." + s.Namespace + ".svc"
	roots := x509.NewCertPool()
	roots.AddCert(authority.Leaf)
	pair, err := tls.X509KeyPair(d[corev1.TLSCertKey], d[corev1.TLSPrivateKeyKey])
	if err == nil && now.Before(pair.Leaf.NotAfter.Add(-certificateLife/3)) {
		_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now})
		if err == nil {
			return changed, nil
		}
	}
	d[corev1.TLSCertKey], d[corev1.TLSPrivateKeyKey], err = issue(&authority, now, certificateLife, name, s.Service+"."+s.Namespace+".svc.cluster.local")
	return true, err
}

// issue makes a certificate of the authority for the names, or, without one, an authority.
func issue(authority *tls.Certificate, now time.Time, life time.Duration, names ...string) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, NotBefore: now.Add(-backdated), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: names, BasicConstraintsValid: true,
	}
	parent, signer := c, any(private)
	if authority == nil {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.DNSNames = true, x509.KeyUsageCertSign, nil, nil
	} else {
		parent, signer = authority.Leaf, authority.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &private.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}
