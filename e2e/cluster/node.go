package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

//go:embed node-init.sh
var nodeInit []byte

// hierarchies are the cgroup v1 hierarchies in which a node has a folder of its own.
func hierarchies() []string {
	return []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"}
}

// nodeUp powers a node on: its network first, then its pid 1.
func (c cluster) nodeUp(ctx context.Context, n node) error {
	if c.alive(n.String()) {
		return nil
	}
	if err := n.network(ctx); err != nil {
		return err
	}
	if err := n.cgroups(); err != nil {
		return err
	}
	for _, d := range []string{"kubelet", "containerd", "cni", "cni-config", "pods", "containers", "remora"} {
		if err := os.MkdirAll(c.path("nodes", n.String(), d), 0o755); err != nil {
			return err
		}
	}
	// One for each node: bash reads a script as it goes, and would take one that is being written again for one that ends.
	script := c.path("nodes", n.String(), "node-init.sh")
	if err := os.WriteFile(script, nodeInit, 0o755); err != nil {
		return err
	}
	return c.daemon(n.String(), "nsenter", "--net=/run/netns/"+n.netns(),
		"unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private",
		"/bin/bash", script, c.dir, n.String(), n.address(), n.pods(), n.netns())
}

// network gives a node a namespace with one link to the bridge, and routes to the pods of the others.
func (n node) network(ctx context.Context) error {
	if _, err := os.Stat("/run/netns/" + n.netns()); err == nil {
		return nil
	}
	in := "-n " + n.netns() + " "
	lines := []string{
		"netns add " + n.netns(),
		"link add " + n.link() + " type veth peer name eth0 netns " + n.netns(),
		"link set " + n.link() + " master " + bridge + " up",
		in + "link set lo up", in + "addr add " + n.address() + "/24 dev eth0", in + "link set eth0 up",
		in + "route add default via " + hostAddress,
		"route replace " + n.pods() + " via " + n.address() + " dev " + bridge,
	}
	for _, m := range nodes() {
		if m != n {
			lines = append(lines, in+"route add "+m.pods()+" via "+m.address())
		}
	}
	if err := each(ctx, "ip", lines...); err != nil {
		return err
	}
	return each(ctx, "nsenter", "--net=/run/netns/"+n.netns()+" sysctl -qw net.ipv4.ip_forward=1")
}

func (n node) cgroups() error {
	for _, h := range hierarchies() {
		dir := filepath.Join("/sys/fs/cgroup", h, n.netns())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if h != "cpuset" {
			continue
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // a new folder has none, and takes no process
			text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpuset", f))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, f), text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// nodeKill takes the power away: SIGKILL to unshare is SIGKILL to its child, which is pid 1 of the node; every process of the
// node dies with it, and its mounts vanish. The page cache is the machine's and stays.
func (c cluster) nodeKill(ctx context.Context, n node) error {
	if err := c.kill(n.String(), false); err != nil {
		return err
	}
	if err := until(ctx, 30*time.Second, func() bool { return len(n.processes()) == 0 }); err != nil {
		return fmt.Errorf("%s: processes %v are left: %w", n, n.processes(), err)
	}
	// The next kubelet's cadvisor would spend 3 s on each dead cgroup and let no pod start meanwhile.
	return n.removePodCgroups()
}

// processes are the pids in the cgroups of a node's pods.
func (n node) processes() (pids []string) {
	_ = filepath.WalkDir(filepath.Join("/sys/fs/cgroup/pids", n.netns()), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			text, _ := os.ReadFile(path)
			pids = append(pids, strings.Fields(string(text))...)
		}
		return nil
	})
	return pids
}

func (n node) removePodCgroups() error {
	var errs []error
	for _, h := range hierarchies() {
		top := filepath.Join("/sys/fs/cgroup", h, n.netns())
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != top {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs) // children first
		for _, d := range dirs {
			// A cgroup whose last process has just been reaped is busy for a moment.
			_ = until(context.Background(), 5*time.Second, func() bool { return !errors.Is(syscall.Rmdir(d), syscall.EBUSY) })
			if _, err := os.Stat(d); err == nil {
				errs = append(errs, fmt.Errorf("cgroup %s is left", d))
			}
		}
	}
	return errors.Join(errs...)
}

func (n node) removeCgroups() error {
	err := n.removePodCgroups()
	for _, h := range hierarchies() {
		if e := syscall.Rmdir(filepath.Join("/sys/fs/cgroup", h, n.netns())); e != nil && !errors.Is(e, syscall.ENOENT) {
			err = errors.Join(err, fmt.Errorf("cgroup %s of %s: %w", h, n, e))
		}
	}
	return err
}

// inside is the command line that runs a program in a node's namespaces.
func (c cluster) inside(n node, args ...string) ([]string, error) {
	pid := c.pid(n.String())
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	first := strings.Fields(string(text))
	if pid == 0 || err != nil || len(first) == 0 {
		return nil, fmt.Errorf("%s is not running; start it with `cluster node-up %s`", n, n)
	}
	return append([]string{"nsenter", "-t", first[0], "-m", "-n", "-p", "-i", "-u", "--"}, args...), nil
}

func (c cluster) exec(n node, args []string) error {
	line, err := c.inside(n, args...)
	if err != nil {
		return err
	}
	program, err := exec.LookPath(line[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, line, os.Environ())
}
