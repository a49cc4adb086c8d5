package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// scheme of the URIs in a certificate's subject alternative names:
//
//	remora://TENANT/pod/POD          one
//	remora://TENANT/volume/VOLUME    one for each volume that the pod owns or holds a replica of
const scheme = "remora"

// maxVolumes bounds what a certificate names: each handshake carries all of it.
const maxVolumes = 1024

// Identity is who a certificate says its holder is.
type Identity struct {
	Tenant  string   // the namespace
	Pod     string   // or keeper
	Volumes []string // names of Volume objects, sorted: those that it owns or holds replicas of
}

// Has says whether the identity names the volume.
func (i Identity) Has(volume string) bool { return slices.Contains(i.Volumes, volume) }

func (i Identity) String() string { return i.Tenant + "/" + i.Pod }

// Validate says what of an identity cannot be written into a certificate.
func (i Identity) Validate() error {
	errs := []error{checkName("tenant", i.Tenant), checkName("pod", i.Pod)}
	for _, v := range i.Volumes {
		errs = append(errs, checkName("volume", v))
	}
	if len(i.Volumes) > maxVolumes {
		errs = append(errs, fmt.Errorf("%d volumes: a certificate names at most %d", len(i.Volumes), maxVolumes))
	}
	return errors.Join(errs...)
}

// URIs are the identity as subject alternative names.
func (i Identity) URIs() []*url.URL {
	uri := func(kind, name string) *url.URL {
		return &url.URL{Scheme: scheme, Host: i.Tenant, Path: "/" + kind + "/" + name}
	}
	uris := []*url.URL{uri("pod", i.Pod)}
	for _, v := range i.Volumes {
		uris = append(uris, uri("volume", v))
	}
	return uris
}

// FromCertificate reads the identity that a certificate names. It does not verify the certificate.
func FromCertificate(c *x509.Certificate) (Identity, error) { return Parse(c.URIs) }

// Parse reads an identity from URIs. URIs of other schemes, and kinds of a newer version, say nothing here; everything else must be
// spelled exactly as URIs spells it, and name one tenant and one pod.
func Parse(uris []*url.URL) (Identity, error) {
	var id Identity
	for _, u := range uris {
		if u.Scheme != scheme {
			continue
		}
		kind, name, err := split(u)
		if err != nil {
			return Identity{}, err
		}
		if id.Tenant != "" && id.Tenant != u.Host {
			return Identity{}, fmt.Errorf("the certificate names two tenants, %s and %s", id.Tenant, u.Host)
		}
		id.Tenant = u.Host
		switch kind {
		case "pod":
			if id.Pod != "" {
				return Identity{}, fmt.Errorf("the certificate names two pods, %s and %s", id.Pod, name)
			}
			id.Pod = name
		case "volume":
			id.Volumes = append(id.Volumes, name)
		}
	}
	if id.Pod == "" {
		return Identity{}, errors.New("the certificate names no pod: it needs a URI remora://TENANT/pod/POD among its alternative names")
	}
	slices.Sort(id.Volumes)
	id.Volumes = slices.Compact(id.Volumes)
	return id, id.Validate()
}

func split(u *url.URL) (kind, name string, err error) {
	bad := func(what string) (string, string, error) {
		return "", "", fmt.Errorf("the certificate names %q, which has %s and is not remora://TENANT/KIND/NAME", u, what)
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || u.RawPath != "" {
		return bad("more than a path")
	}
	parts := strings.Split(u.Path, "/")
	if len(parts) != 3 || parts[0] != "" {
		return bad("another path")
	}
	if err := errors.Join(checkName("tenant", u.Host), checkName("name", parts[2])); err != nil {
		return bad("a bad name (" + err.Error() + ")")
	}
	return parts[1], parts[2], nil
}

// checkName holds names to those of Kubernetes objects (RFC 1123 subdomains), whose characters need no escape in a URI.
func checkName(what, name string) error {
	good := len(name) > 0 && len(name) <= 253
	for i := range len(name) {
		c := name[i]
		inner := i > 0 && i < len(name)-1
		good = good && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || inner && (c == '-' || c == '.'))
	}
	if !good {
		return fmt.Errorf("%s %q: allowed are 1 to 253 of a-z, 0-9, and inside also '-' and '.'", what, name)
	}
	return nil
}
