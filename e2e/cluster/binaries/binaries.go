// Package binaries builds the programs of Kubernetes and etcd from their Go modules, and keeps them outside the tree. No
// registry and no download page is asked: the modules come the way all Go modules come. Two programs are linked, each of them
// answers to several names: kube-apiserver (and etcd), and kube (everything else).
//
// What is built is named after a sum of its sources, so a changed go.mod builds anew and two clones share one cache.
package binaries

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Version of Kubernetes, as e2e/cluster/kube/go.mod names it.
const Version = "v1.36.3"

// Program is one that is linked.
type Program string

// The programs.
const (
	APIServer Program = "kube-apiserver" // and etcd
	Kube      Program = "kube"           // kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl
	// certManager is cert-manager's controllers and CA injector, of a module of their own (CertManager).
	certManager Program = "certmanager"
)

// names are what a program is called by.
func (p Program) names() []string {
	switch p {
	case APIServer:
		return []string{"etcd"}
	case certManager:
		return nil
	}
	return []string{"kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}
}

func (p Program) source() string {
	switch p {
	case APIServer:
		return "./apiserver"
	case certManager:
		return "."
	}
	return "./rest"
}

// Cache is the folder in which programs, images and the state of a cluster are kept: $REMORA_CLUSTER_CACHE, or remora-cluster
// in the user's cache folder.
func Cache() (string, error) {
	if dir := os.Getenv("REMORA_CLUSTER_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache: %w; set REMORA_CLUSTER_CACHE to a folder", err)
	}
	return filepath.Join(dir, "remora-cluster"), nil
}

// Dir returns the folder in which the programs lie under all their names; those that are not there yet are built, which takes
// minutes and is told to progress. Several processes may call it at once.
func Dir(ctx context.Context, progress io.Writer, programs ...Program) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	sources := filepath.Join(root, "e2e", "cluster", "kube")
	dir, err := dirOf(cache, sources, "go.mod", "go.sum", "apiserver/main.go", "rest/main.go")
	if err != nil {
		return "", err
	}
	for _, p := range programs {
		if err := ensure(ctx, progress, sources, dir, p); err != nil {
			return "", fmt.Errorf("build %s of Kubernetes %s: %w", p, Version, err)
		}
	}
	return dir, nil
}

// CertManager returns the program of e2e/cluster/certmanager, built if it is not there yet, and the folder of its definitions.
func CertManager(ctx context.Context, progress io.Writer) (program, definitions string, err error) {
	cache, err := Cache()
	if err != nil {
		return "", "", err
	}
	root, err := Root(ctx)
	if err != nil {
		return "", "", err
	}
	sources := filepath.Join(root, "e2e", "cluster", "certmanager")
	dir, err := dirOf(cache, sources, "go.mod", "go.sum", "main.go")
	if err != nil {
		return "", "", err
	}
	if err := ensure(ctx, progress, sources, dir, certManager); err != nil {
		return "", "", fmt.Errorf("build cert-manager: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager")
	cmd.Dir, cmd.Env = sources, append(os.Environ(), "GOWORK=off")
	module, err := cmd.Output()
	if err != nil {
		return "", "", fmt.Errorf("the module of cert-manager: %w", err)
	}
	return filepath.Join(dir, string(certManager)), filepath.Join(strings.TrimSpace(string(module)), "deploy", "crds"), nil
}

// Root is the folder of this project's go.mod, seen from the working directory.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || mod == "" || mod == os.DevNull {
		return "", fmt.Errorf("no go.mod above the working directory: run this inside a clone of Remora (%w)", err)
	}
	return filepath.Dir(mod), nil
}

// dirOf makes the folder for what is built from these sources.
func dirOf(cache, sources string, files ...string) (string, error) {
	sum, err := sumOf(sources, files)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "bin-"+sum)
	return dir, os.MkdirAll(dir, 0o755)
}

// sumOf names the sources and the toolchain that a program is built from.
func sumOf(sources string, files []string) (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, Version, runtime.Version(), runtime.GOARCH)
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(sources, f))
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintln(h, f, len(text))
		_, _ = h.Write(text)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6]), nil
}

// ensure builds a program that is not there. Whoever comes second waits for the lock and finds it.
func ensure(ctx context.Context, progress io.Writer, sources, dir string, p Program) error {
	program := filepath.Join(dir, string(p))
	if _, err := os.Stat(program); err == nil {
		return nil
	}
	lock, err := os.OpenFile(program+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Stat(program); err == nil {
		return nil
	}
	_, _ = fmt.Fprintf(progress, "building %s into %s: minutes, once\n", p, dir)
	if err := build(ctx, sources, program+".new", p); err != nil {
		return err
	}
	for _, name := range p.names() {
		link := filepath.Join(dir, name)
		if err := os.Symlink(string(p), link); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return os.Rename(program+".new", program)
}

// build links a program. Without the stamps it would call itself v0.0.0-master+$Format:%H$, and kubectl could not read that.
func build(ctx context.Context, sources, out string, p Program) error {
	version := strings.Split(strings.TrimPrefix(Version, "v"), ".")
	flags := "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += fmt.Sprintf(" -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s -X %[1]s.gitTreeState=clean -X %[1]s.gitCommit=unknown",
			pkg, Version, version[0], version[1])
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", out, p.source())
	cmd.Dir = sources
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, said.Bytes())
	}
	return nil
}
