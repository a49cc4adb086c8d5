package dev

import (
	"slices"
	"sync"
	"time"

	"github.com/remora-storage/remora/sidecar/identity"
)

// issuer gives every process of dev the certificate that it shows to others: dev has an authority of its own, DIR/ca.
type issuer struct {
	l  layout
	ca *identity.CA

	mu     sync.Mutex
	issued map[string]issued // by title
}

type issued struct {
	volumes []string
	at      time.Time
}

// renewAfter is when a certificate is issued again although nothing changed: with a third of its life left.
const renewAfter = 2 * identity.Validity / 3

func newIssuer(l layout) (*issuer, error) {
	ca, err := identity.OpenCA(l.ca(), nil)
	if err != nil {
		return nil, err
	}
	return &issuer{l: l, ca: ca, issued: map[string]issued{}}, nil
}

// issue writes the certificate of a process, if it is not there, is old, or does not name these volumes. The process reads it again by
// itself.
func (i *issuer) issue(title, namespace, pod string, volumes []string) error {
	slices.Sort(volumes)
	volumes = slices.Compact(volumes)
	i.mu.Lock()
	defer i.mu.Unlock()
	if had, ok := i.issued[title]; ok && slices.Equal(had.volumes, volumes) && time.Since(had.at) < renewAfter {
		return nil
	}
	c, err := i.ca.Issue(identity.Identity{Tenant: namespace, Pod: pod, Volumes: volumes}, 0)
	if err != nil {
		return err
	}
	if err := identity.Write(i.l.identity(title), c); err != nil {
		return err
	}
	i.issued[title] = issued{volumes, time.Now()}
	return nil
}
