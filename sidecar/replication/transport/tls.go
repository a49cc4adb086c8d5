package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/remora-storage/remora/sidecar/identity"
)

// Protocols (ALPN). A version that changes what is on the wire has a new name, and an end that knows both offers both.
const (
	protoFrames = "remora-frames/1"
	protoBulk   = "remora-bulk/1"
)

// refusal is why a peer is not talked to.
type refusal struct {
	reason string // of the counter: one of a few
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// tlsConfig of one handshake. The peer is checked by verify alone, in the same way at both ends: an address says nothing of who is
// there, so a client has no server's name to compare, and crypto/tls is told to leave the chain to us.
func (t *Transport) tlsConfig(c *conn, server bool, protocols []string) *tls.Config {
	usage := x509.ExtKeyUsageServerAuth
	if server {
		usage = x509.ExtKeyUsageClientAuth
	}
	look := func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.ContainsFunc(hello.SupportedProtos, func(p string) bool { return slices.Contains(protocols, p) }) {
			c.foreign = printable([]byte(fmt.Sprintf("%.200q", hello.SupportedProtos)))
		}
		return nil, nil // crypto/tls refuses it, with the right alert; or verify does
	}
	return &tls.Config{
		GetConfigForClient:          look,
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{*c.own},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, // see above
		VerifyConnection:            func(s tls.ConnectionState) error { return t.verify(c, s, usage) },
		NextProtos:                  protocols,
		SessionTicketsDisabled:      true, // each connection shows its certificates
		DynamicRecordSizingDisabled: true, // it saves the first bytes of a web page a round trip, and costs calls
		Time:                        t.cfg.Now,
	}
}

// verify is the whole check of a peer at the handshake: a chain to our roots, in its time, for this use, of this tenant.
func (t *Transport) verify(c *conn, s tls.ConnectionState, usage x509.ExtKeyUsage) error {
	if s.NegotiatedProtocol == "" {
		return &refusal{"protocol", errors.New("the peer speaks TLS, and no protocol of Remora")}
	}
	if len(s.PeerCertificates) == 0 {
		return &refusal{"no_certificate", errors.New("the peer shows no certificate")}
	}
	c.leaf, c.chain = s.PeerCertificates[0], s.PeerCertificates
	if err := t.verifyChain(c, c.roots, usage); err != nil {
		return err
	}
	peer, err := identity.FromCertificate(c.leaf)
	if err != nil {
		return &refusal{"identity", err}
	}
	if peer.Tenant != t.cfg.Self.Tenant {
		return &refusal{"tenant", fmt.Errorf("the peer is %s, and only those of tenant %s are talked to", peer, t.cfg.Self.Tenant)}
	}
	c.peer = peer
	return nil
}

func (t *Transport) verifyChain(c *conn, roots *x509.CertPool, usage x509.ExtKeyUsage) error {
	between := x509.NewCertPool()
	for _, cert := range c.chain[1:] {
		between.AddCert(cert)
	}
	_, err := c.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: t.cfg.Now(),
		KeyUsages: []x509.ExtKeyUsage{usage}})
	if err == nil {
		return nil
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return &refusal{"expired", fmt.Errorf("the peer's certificate is not in its time: %w; its issuer must run, and clocks must agree", err)}
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return &refusal{"unknown_authority", fmt.Errorf("the peer's certificate is of an authority that is not trusted here: %w", err)}
	}
	return &refusal{"certificate", err}
}

// handshakeReason names what ended a handshake.
func handshakeReason(err error) string {
	var refused *refusal
	var notTLS tls.RecordHeaderError
	var netErr net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &refused):
		return refused.reason
	case errors.As(err, &notTLS):
		return "not_tls"
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert
		return "refused_by_peer"
	case errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	}
	return "handshake"
}
