package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/remora-storage/remora/e2e/cluster/binaries"
)

// up starts what is not running: the control plane, then the nodes side by side.
func (c cluster) up(ctx context.Context) error {
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		return errors.New("this machine has cgroup v2 only, and node-init.sh was written and tried for v1 (hybrid); use a cluster of your own with KUBECONFIG")
	}
	bin, err := binaries.Dir(ctx, os.Stderr, binaries.APIServer, binaries.Kube)
	if err != nil {
		return err
	}
	for _, d := range []string{"run", "log", "images"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	_ = os.Remove(c.path("bin"))
	if err := os.Symlink(bin, c.path("bin")); err != nil {
		return err
	}
	started := time.Now()
	say := func(what string) { fmt.Printf("%s: %.1f s\n", what, time.Since(started).Seconds()) }
	if err := c.control(ctx); err != nil {
		return fmt.Errorf("control plane: %w; logs are in %s", err, c.path("log"))
	}
	say("control plane ready")
	if err := c.pauseImage(ctx); err != nil {
		return err
	}
	for _, n := range nodes() {
		if err := c.nodeUp(ctx, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	if err := c.nodesReady(ctx); err != nil {
		return fmt.Errorf("nodes: %w; logs are in %s", err, c.path("log"))
	}
	say("3 nodes ready")
	fmt.Printf("export KUBECONFIG=%s\n", c.kubeconfig())
	return nil
}

// control starts the control plane.
func (c cluster) control(ctx context.Context) error {
	if _, err := output(ctx, "ip", "link", "show", bridge); err != nil {
		if err := each(ctx, "ip", "link add "+bridge+" type bridge", "addr add "+hostAddress+"/24 dev "+bridge, "link set "+bridge+" up"); err != nil {
			return err
		}
	}
	if err := c.keys(); err != nil {
		return err
	}
	cfg := c.apiserver()
	if err := c.daemon("etcd", c.path("bin", "etcd"), cfg.EtcdArgs()...); err != nil {
		return err
	}
	if err := c.daemon("kube-apiserver", c.path("bin", "kube-apiserver"), cfg.ServerArgs()...); err != nil {
		return err
	}
	if err := until(ctx, 2*time.Minute, func() bool {
		_, err := c.kubectl(ctx, "get", "--raw=/readyz")
		return err == nil
	}); err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	p := func(name string) string { return filepath.Join(cfg.PKI(), name) }
	as := func(name string) []string {
		k := p(name + ".kubeconfig")
		return []string{"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
			"--bind-address=127.0.0.1", "--leader-elect=false", "--v=1"}
	}
	if err := c.daemon("kube-controller-manager", c.path("bin", "kube-controller-manager"), append(as("kube-controller-manager"),
		"--secure-port=10357", "--root-ca-file="+p("ca.crt"), "--service-account-private-key-file="+p("sa.key"),
		"--use-service-account-credentials=true", "--cluster-signing-cert-file="+p("ca.crt"), "--cluster-signing-key-file="+p("ca.key"),
		"--allocate-node-cidrs=false", "--cluster-cidr="+podRange,
		"--node-monitor-period=2s", "--node-monitor-grace-period=10s")...); err != nil {
		return err
	}
	return c.daemon("kube-scheduler", c.path("bin", "kube-scheduler"), append(as("kube-scheduler"), "--secure-port=10359")...)
}

// keys makes all keys of the cluster, once in its life.
func (c cluster) keys() error {
	if _, err := os.Stat(c.path("pki", "complete")); err == nil {
		return nil
	}
	cfg := c.apiserver()
	ca, err := cfg.Keys()
	if err != nil {
		return err
	}
	kubeconfig := func(file, user string, groups ...string) {
		err = errors.Join(err, ca.Kubeconfig(filepath.Join(cfg.PKI(), file+".kubeconfig"), cfg.URL(), user, groups...))
	}
	kubeconfig("kube-controller-manager", "system:kube-controller-manager")
	kubeconfig("kube-scheduler", "system:kube-scheduler")
	kubeconfig("kube-proxy", "system:kube-proxy", "system:node-proxier")
	for _, n := range nodes() {
		user := "system:node:" + n.String()
		kubeconfig("kubelet-"+n.String(), user, "system:nodes")
		err = errors.Join(err, ca.IssueTo(cfg.PKI(), "kubelet-"+n.String(), user, []string{"system:nodes"}, n.String(), n.address()))
	}
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("pki", "complete"), nil, 0o644)
}

func (c cluster) nodesReady(ctx context.Context) error {
	var last string
	err := until(ctx, 3*time.Minute, func() bool {
		out, err := c.kubectl(ctx, "get", "nodes", `-o=jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
		last = fmt.Sprint(out, err)
		return strings.Count(out, "=True") == len(nodes())
	})
	if err != nil {
		return fmt.Errorf("%w (%s)", err, last)
	}
	return nil
}

// down stops everything: nodes as by a power cut, the control plane in order. Data goes, programs and images stay.
func (c cluster) down(ctx context.Context) error {
	var errs []error
	for _, n := range nodes() {
		errs = append(errs, c.nodeKill(ctx, n))
	}
	for _, name := range []string{"kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"} {
		errs = append(errs, c.kill(name, true))
	}
	for _, n := range nodes() {
		if _, err := os.Stat("/run/netns/" + n.netns()); err == nil {
			errs = append(errs, each(ctx, "ip", "netns del "+n.netns()))
		}
		_, _ = output(ctx, "ip", "link", "del", n.link()) // went with the namespace, unless up stopped half-way
		errs = append(errs, n.removeCgroups())
	}
	if _, err := output(ctx, "ip", "link", "show", bridge); err == nil {
		errs = append(errs, each(ctx, "ip", "link del "+bridge))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the data stays for a look
	}
	for _, d := range []string{"nodes", "etcd", "pki", "run", "log"} {
		errs = append(errs, os.RemoveAll(c.path(d)))
	}
	return errors.Join(errs...)
}

// each runs a program with several lines of arguments.
func each(ctx context.Context, program string, lines ...string) error {
	for _, l := range lines {
		if _, err := output(ctx, program, strings.Fields(l)...); err != nil {
			return err
		}
	}
	return nil
}
