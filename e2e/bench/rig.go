package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rig is a running `remora dev` with one pod and one volume.
type rig struct {
	binary string
	dir    string // its --dir
	pid    int
	gone   chan struct{} // closed when the supervisor has ended
	log    string
	logf   func(string, ...any)
}

// status is what bench reads of `remora status -o json`.
type status struct {
	Pods []struct {
		Name, Node string
		PID        *int
		Volumes    []struct {
			Name, Mount, State string
			Replicas           []struct {
				Role, State, Node string
				Missing           int64
			}
		}
	}
}

// startRig builds nothing: cfg.Remora is there. It answers when the volume serves.
func startRig(ctx context.Context, cfg Config, dir string, logf func(string, ...any)) (*rig, error) {
	r := &rig{binary: cfg.Remora, dir: dir, gone: make(chan struct{}), log: dir + ".log", logf: logf}
	out, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	ready := dir + ".ready"
	cmd := exec.Command(cfg.Remora, "dev", "-f", cfg.Volume, "--dir", dir, "--ready-file", ready)
	cmd.Stdout, cmd.Stderr = out, out
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r.pid = cmd.Process.Pid
	go func() { _ = cmd.Wait(); close(r.gone) }() // ended by close; its log says why
	if err := r.ready(ctx, ready); err != nil {
		text, _ := os.ReadFile(r.log) // the error below is the one that matters
		return nil, errors.Join(fmt.Errorf("%w%s", err, lastLines(string(text))), r.close())
	}
	return r, nil
}

func (r *rig) ready(ctx context.Context, file string) error {
	deadline := time.After(time.Minute)
	for {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-r.gone:
			return errors.New("remora dev ended before its volume served")
		case <-deadline:
			return errors.New("remora dev: the volume does not serve after a minute")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// status asks the supervisor.
func (r *rig) status(ctx context.Context) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var st status
	out, err := exec.CommandContext(ctx, r.binary, "status", "--dir", r.dir, "-o", "json").Output()
	if err != nil {
		return st, fmt.Errorf("remora status: %w", err)
	}
	return st, json.Unmarshal(out, &st)
}

// mount is where the volume of that name is. It refuses anything but a FUSE file system: two plain directories compare well.
func (r *rig) mount(ctx context.Context, name string) (string, error) {
	st, err := r.status(ctx)
	if err != nil {
		return "", err
	}
	dir := ""
	for _, pod := range st.Pods {
		for _, v := range pod.Volumes {
			if v.Name == name {
				dir = v.Mount
			}
		}
	}
	if dir == "" {
		return "", fmt.Errorf("remora status: no volume %q in %+v", name, st)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", fmt.Errorf("statfs %s: %w", dir, err)
	}
	if fs.Type != unix.FUSE_SUPER_MAGIC {
		return "", fmt.Errorf("%s: not a FUSE mount, file system type %#x", dir, fs.Type)
	}
	return dir, nil
}

// sidecars are the processes that serve the volume now.
func (r *rig) sidecars(ctx context.Context) ([]int, error) {
	st, err := r.status(ctx)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, pod := range st.Pods {
		if pod.PID != nil {
			pids = append(pids, *pod.PID)
		}
	}
	return pids, nil
}

// close ends the supervisor: SIGTERM, and when it is not gone after 20 s, the hard way. No mount stays in either case.
func (r *rig) close() error {
	err := stop(r.pid, syscall.SIGTERM, r.gone, 20*time.Second)
	if err != nil {
		abortMounts(r.dir, r.logf)
		err = errors.Join(err, stop(r.pid, syscall.SIGKILL, r.gone, 10*time.Second))
	}
	mounts, mountErr := fuseMounts(r.dir)
	for _, m := range mounts {
		r.logf("unmounting %s, which remora dev left", m.dir)
		err = errors.Join(err, unix.Unmount(m.dir, unix.MNT_DETACH))
	}
	return errors.Join(err, mountErr)
}

// abortMounts ends the FUSE connections of all mounts below dir: every call on them returns ENOTCONN.
func abortMounts(dir string, logf func(string, ...any)) {
	if dir == "" {
		return
	}
	mounts, err := fuseMounts(dir)
	if err != nil {
		logf("abort: %v", err)
	}
	for _, m := range mounts {
		logf("aborting FUSE connection %d of %s", m.connection, m.dir)
		file := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", m.connection)
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			logf("abort: %v", err)
		}
		if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
			logf("umount %s: %v", m.dir, err)
		}
	}
}

type fuseMount struct {
	connection uint64 // minor number of the mount's device
	dir        string
}

// fuseMounts are the FUSE mounts below dir. It reads the mount table and touches no mount.
func fuseMounts(dir string) ([]fuseMount, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(table), dir), nil
}

// parseMounts reads mountinfo; see proc_pid_mountinfo(5). The dir is made by us and has no characters that are escaped there.
func parseMounts(table, dir string) []fuseMount {
	var mounts []fuseMount
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		separator := strings.Index(line, " - ")
		if len(fields) < 6 || separator < 0 || !strings.HasPrefix(line[separator+3:], "fuse") {
			continue
		}
		if !strings.HasPrefix(fields[4], filepath.Clean(dir)+"/") {
			continue
		}
		_, minor, _ := strings.Cut(fields[2], ":")
		n, err := strconv.ParseUint(minor, 10, 64)
		if err != nil {
			continue
		}
		mounts = append(mounts, fuseMount{connection: n, dir: fields[4]})
	}
	return mounts
}
