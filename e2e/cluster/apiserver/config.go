// Package apiserver runs Kubernetes' real API server with an etcd of its own: the whole control plane of `make cluster` starts
// from it, and tests of admission have one for themselves (Start).
package apiserver

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/remora-storage/remora/e2e/cluster/pki"
)

// Config is an API server and its etcd.
type Config struct {
	// Dir holds keys (pki/), etcd's data (etcd/) and logs.
	Dir string
	// Host is the address that the API server listens at, Port its port.
	Host string
	Port int
	// EtcdPort and EtcdPeerPort are etcd's, at 127.0.0.1.
	EtcdPort, EtcdPeerPort int
	// Services is the range of cluster addresses; FirstService the API server's own, the first of it.
	Services, FirstService string
	// Nodes says that there are kubelets and a controller manager: node authorization, service accounts. Without them a pod is
	// only stored, and a namespace has no service account that a pod could name.
	Nodes bool
	// Args are more arguments of kube-apiserver.
	Args []string
}

// PKI is the folder of keys and certificates. admin.kubeconfig in it may do everything.
func (c Config) PKI() string { return filepath.Join(c.Dir, "pki") }

// URL is where the API server answers.
func (c Config) URL() string { return fmt.Sprintf("https://%s:%d", c.Host, c.Port) }

// Keys makes all keys and certificates of the control plane, and returns the authority that signed them.
func (c Config) Keys() (*pki.CA, error) {
	dir := c.PKI()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := pki.New(dir, "ca")
	if err != nil {
		return nil, err
	}
	front, err := pki.New(dir, "front-ca")
	if err != nil {
		return nil, err
	}
	const svc = "kubernetes.default.svc"
	err = ca.IssueTo(dir, "apiserver", "kube-apiserver", nil, c.Host, c.FirstService, "127.0.0.1", "localhost",
		"kubernetes", "kubernetes.default", svc, svc+".cluster.local")
	if err != nil {
		return nil, err
	}
	if err := ca.IssueTo(dir, "kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}); err != nil {
		return nil, err
	}
	if err := front.IssueTo(dir, "front-client", "front-proxy-client", nil); err != nil {
		return nil, err
	}
	if err := pki.ServiceAccountKey(dir); err != nil {
		return nil, err
	}
	return ca, ca.Kubeconfig(filepath.Join(dir, "admin.kubeconfig"), c.URL(), "admin", "system:masters")
}

// EtcdArgs are etcd's arguments. It does not sync: what this cluster holds is worth nothing after a power cut.
func (c Config) EtcdArgs() []string {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", c.EtcdPort), fmt.Sprintf("http://127.0.0.1:%d", c.EtcdPeerPort)
	return []string{"--name=remora", "--data-dir=" + filepath.Join(c.Dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=remora=" + peer}
}

// ServerArgs are kube-apiserver's arguments.
func (c Config) ServerArgs() []string {
	p := func(name string) string { return filepath.Join(c.PKI(), name) }
	args := []string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.EtcdPort),
		"--bind-address=" + c.Host, "--advertise-address=" + c.Host, fmt.Sprintf("--secure-port=%d", c.Port),
		"--service-cluster-ip-range=" + c.Services,
		"--client-ca-file=" + p("ca.crt"), "--tls-cert-file=" + p("apiserver.crt"), "--tls-private-key-file=" + p("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p("sa.pub"), "--service-account-signing-key-file=" + p("sa.key"),
		"--allow-privileged=true", "--profiling=false", "--v=1",
	}
	if !c.Nodes {
		return append(append(args, "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount",
			"--endpoint-reconciler-type=none"), c.Args...)
	}
	return append(append(args, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--kubelet-client-certificate="+p("kubelet-client.crt"), "--kubelet-client-key="+p("kubelet-client.key"),
		"--kubelet-certificate-authority="+p("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file="+p("front-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file="+p("front-client.crt"), "--proxy-client-key-file="+p("front-client.key"),
		// The API server runs outside the pods' network: it calls webhooks at their pods, not at the address of their Service.
		"--enable-aggregator-routing=true"), c.Args...)
}
