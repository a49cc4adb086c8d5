package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/remora-storage/remora/e2e/cluster/binaries"
	"github.com/remora-storage/remora/e2e/cluster/pki"
)

// Server is an API server that a test has for itself: no kubelet, no controllers, no service accounts. Pod Security and all
// other admission is as in a cluster. A namespace that is deleted stays Terminating: nobody finalizes it.
type Server struct {
	URL string
	// Kubeconfig is the path of one that may do everything.
	Kubeconfig string
	// CA is the certificate that the server's is signed by, PEM.
	CA []byte
	// Kubectl is the path of the program if it was built already ("" otherwise: it takes minutes to build).
	Kubectl string

	dir string
	ca  *pki.CA
}

// startTimeout bounds one try; the server itself takes 5 seconds on a machine that does nothing else.
const startTimeout = 3 * time.Minute

// Start builds (once, minutes: `make test` does it beforehand) and starts etcd and kube-apiserver on free ports of 127.0.0.1,
// and stops them when the test is over. args are more arguments of kube-apiserver.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	s, stop, err := Run(tb.Context(), tb.TempDir(), args...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(stop)
	return s
}

// Run is Start outside a test, say in TestMain: the folder is the caller's, and so is calling stop.
func Run(ctx context.Context, dir string, args ...string) (s *Server, stop func(), err error) {
	bin, err := binaries.Dir(ctx, os.Stderr, binaries.APIServer)
	if err != nil {
		return nil, nil, err
	}
	// A port that was free a moment ago may be taken now: try again with others.
	for try := range 5 {
		s, stop, err = run(ctx, bin, filepath.Join(dir, fmt.Sprint("apiserver-", try)), args)
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return s, stop, err
}

// KubeconfigFor writes a kubeconfig of a user of these groups, and returns its path. What the user may do is RBAC's business.
func (s *Server) KubeconfigFor(user string, groups ...string) (string, error) {
	path := filepath.Join(s.dir, strings.NewReplacer("/", "_", ":", "_").Replace(user)+".kubeconfig")
	return path, s.ca.Kubeconfig(path, s.URL, user, groups...)
}

// Certificate issues a certificate of the server's authority, say for a webhook at 127.0.0.1.
func (s *Server) Certificate(hosts ...string) (cert, key []byte, err error) {
	return s.ca.Issue("remora-test", nil, hosts...)
}

func run(ctx context.Context, bin, dir string, args []string) (*Server, func(), error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, nil, err
	}
	cfg := Config{Dir: dir, Host: "127.0.0.1", Port: ports[0], EtcdPort: ports[1], EtcdPeerPort: ports[2],
		Services: "10.252.0.0/16", FirstService: "10.252.0.1", Args: args}
	ca, err := cfg.Keys()
	if err != nil {
		return nil, nil, err
	}
	s := &Server{URL: cfg.URL(), Kubeconfig: filepath.Join(cfg.PKI(), "admin.kubeconfig"), CA: ca.PEM, dir: dir, ca: ca}
	if kubectl := filepath.Join(bin, "kubectl"); exists(kubectl) {
		s.Kubectl = kubectl
	}
	etcd, err := spawn(filepath.Join(bin, "etcd"), filepath.Join(dir, "etcd.log"), cfg.EtcdArgs())
	if err != nil {
		return nil, nil, err
	}
	server, err := spawn(filepath.Join(bin, "kube-apiserver"), filepath.Join(dir, "kube-apiserver.log"), cfg.ServerArgs())
	if err != nil {
		etcd.stop()
		return nil, nil, err
	}
	stop := func() { server.stop(); etcd.stop() }
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := ready(ctx, cfg, ca, etcd, server); err != nil {
		stop()
		return nil, nil, fmt.Errorf("%w\n%s%s", err, etcd.tail(), server.tail())
	}
	return s, stop, nil
}

// ready waits until the server says that it is. The ports of a server that died may be another's by now, so it asks with the
// certificates of this one.
func ready(ctx context.Context, cfg Config, ca *pki.CA, processes ...*process) error {
	client, err := clientOf(ca)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver at %s: not ready: %w", cfg.URL(), ctx.Err())
		case <-processes[0].done:
			return fmt.Errorf("%s ended", processes[0].name)
		case <-processes[1].done:
			return fmt.Errorf("%s ended", processes[1].name)
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.URL()+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
}

func clientOf(ca *pki.CA) (*http.Client, error) {
	certPEM, keyPEM, err := ca.Issue("admin", []string{"system:masters"})
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}},
	}}, nil
}

// process is a child that dies with this one.
type process struct {
	name, log string
	cmd       *exec.Cmd
	done      chan struct{}
}

// spawn starts a program. Its goroutine keeps its thread until the child is dead, because the kernel sends the child its death
// signal when that thread ends.
func spawn(program, log string, args []string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	p := &process{name: filepath.Base(program), log: log, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer func() { _ = out.Close() }()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.done)
		}
	}()
	return p, <-started
}

// stop kills the process: nothing that it holds is worth a clean end.
func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// tail is the end of its log.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return fmt.Sprintf("%s said:\n%s\n", p.name, bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all at once at the end: no port is given twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
