package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/remora-storage/remora/e2e/cluster/apiserver"
	"github.com/remora-storage/remora/e2e/cluster/binaries"
)

// The addresses. The machine's own namespaces hold all of them, and nothing forwards packets out of it.
const (
	bridge       = "remora0"
	hostAddress  = "10.250.0.1" // on the bridge; the control plane listens here
	services     = "10.252.0.0/16"
	firstService = "10.252.0.1"
	podRange     = "10.251.0.0/16"
	port         = 6443
)

// node is one of the three.
type node int

func names() []string { return []string{"n1", "n2", "n3"} }

func nodes() []node { return []node{1, 2, 3} }

func nodeOf(name string) (node, bool) {
	for _, n := range nodes() {
		if n.String() == name {
			return n, true
		}
	}
	return 0, false
}

func (n node) String() string  { return "n" + strconv.Itoa(int(n)) }
func (n node) address() string { return fmt.Sprintf("10.250.0.1%d", n) }
func (n node) pods() string    { return fmt.Sprintf("10.251.%d.0/24", n) }
func (n node) netns() string   { return "remora-" + n.String() } // also the name of its cgroup
func (n node) link() string    { return "remora-" + n.String() }

// cluster is where the cluster's state is.
type cluster struct{ dir string }

func open() (cluster, error) {
	if os.Geteuid() != 0 {
		return cluster{}, errors.New("namespaces, mounts and cgroups need root: run it as root, or use a cluster of your own with KUBECONFIG")
	}
	cache, err := binaries.Cache()
	return cluster{dir: filepath.Join(cache, "state")}, err
}

func (c cluster) path(names ...string) string {
	return filepath.Join(append([]string{c.dir}, names...)...)
}

func (c cluster) kubeconfig() string { return c.path("pki", "admin.kubeconfig") }

func (c cluster) apiserver() apiserver.Config {
	return apiserver.Config{Dir: c.dir, Host: hostAddress, Port: port, EtcdPort: 23790, EtcdPeerPort: 23800,
		Services: services, FirstService: firstService, Nodes: true,
		// A lost node is noticed after ten seconds and its pods are given up after ten more, so that tests need not wait minutes.
		Args: []string{"--default-not-ready-toleration-seconds=10", "--default-unreachable-toleration-seconds=10"}}
}

// kubectl runs kubectl as the administrator.
func (c cluster) kubectl(ctx context.Context, args ...string) (string, error) {
	return output(ctx, c.path("bin", "kubectl"), append([]string{"--kubeconfig=" + c.kubeconfig()}, args...)...)
}

// output runs a program and returns what it printed; the error has what it complained about.
func output(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.String(), nil
}

// daemon starts a program that outlives this one, and notes its pid under a name.
func (c cluster) daemon(name, program string, args ...string) error {
	if c.alive(name) {
		return nil
	}
	log, err := os.OpenFile(c.path("log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	id := fmt.Sprintf("%d %s\n", cmd.Process.Pid, born(cmd.Process.Pid))
	return errors.Join(os.WriteFile(c.path("run", name+".pid"), []byte(id), 0o644), cmd.Process.Release())
}

// pid returns the pid of a daemon, 0 if it is not running. The time of its birth tells it from another that has its pid now.
func (c cluster) pid(name string) int {
	text, err := os.ReadFile(c.path("run", name+".pid"))
	if err != nil {
		return 0
	}
	var pid int
	var birth string
	if _, err := fmt.Sscan(string(text), &pid, &birth); err != nil || birth == "" || born(pid) != birth {
		return 0
	}
	return pid
}

func (c cluster) alive(name string) bool { return c.pid(name) != 0 }

// born is field 22 of /proc/PID/stat; empty for a process that is gone or a zombie.
func born(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// kill ends a daemon, politely first, and forgets its pid.
func (c cluster) kill(name string, polite bool) error {
	pid := c.pid(name)
	if pid != 0 && polite {
		_ = syscall.Kill(pid, syscall.SIGTERM)
		_ = until(context.Background(), 10*time.Second, func() bool { return !c.alive(name) })
	}
	if c.alive(name) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err := until(context.Background(), 20*time.Second, func() bool { return !c.alive(name) }); err != nil {
		return fmt.Errorf("%s (pid %d) does not end: %w", name, pid, err)
	}
	return os.RemoveAll(c.path("run", name+".pid"))
}

// until polls a condition that no event tells of.
func until(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s: %w", limit, ctx.Err())
		case <-time.After(300 * time.Millisecond):
		}
	}
	return nil
}
