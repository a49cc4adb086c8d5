package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/remora-storage/remora/node/host"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// state is what a successor must know of a pod, <plugin directory>/state/<uid>.json. It is of no use after the node's restart, when its
// mounts are gone, so it is not synced.
type state struct {
	Pod       podID                 `json:"pod"`
	Admission *admission            `json:"admission,omitempty"`
	Mounts    map[string]mountState `json:"mounts,omitempty"`
	Disks     string                `json:"disks,omitempty"`
	Locals    map[string]string     `json:"locals,omitempty"`
}

type mountState struct {
	Target string `json:"target"`
	Name   string `json:"name"`
	Served bool   `json:"served"`
}

// save keeps the pod's state. p.mu is held.
func (n *node) save(p *pod) error {
	s := state{Pod: p.id, Admission: p.admission.Load(), Mounts: map[string]mountState{}, Disks: p.disks, Locals: p.locals}
	p.live.Lock()
	for volume, m := range p.mounts {
		s.Mounts[volume] = mountState{Target: m.target, Name: m.name, Served: p.serving[volume].served}
	}
	p.dirty = false
	p.live.Unlock()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := n.cfg.stateFile(p.id.UID)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the state of pod %s: %w", p.id.Name, err)
	}
	return os.Rename(path+".new", path)
}

func (n *node) removeState(uid string) error {
	return errors.Join(remove(n.cfg.stateFile(uid)), remove(filepath.Join(n.runDir(uid), socketName)), remove(n.runDir(uid)), remove(n.cfg.podDir(uid)))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// recover takes charge of what an earlier plugin left.
func (n *node) recover() error {
	files, err := filepath.Glob(filepath.Join(n.cfg.pluginDir(), "state", "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := n.recoverPod(file); err != nil {
			// The others must not suffer. The kubelet unpublishes by target path, which needs no state.
			n.cfg.Logger.Error("cannot take charge of a pod's mounts; restart the pod", "state", file, "err", err)
		}
	}
	return nil
}

func (n *node) recoverPod(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s.Pod.UID != strings.TrimSuffix(filepath.Base(file), ".json") || !podUID.MatchString(s.Pod.UID) {
		return fmt.Errorf("it is of pod %q", s.Pod.UID)
	}
	p := n.lockPod(s.Pod)
	defer n.release(p)
	p.admission.Store(s.Admission)
	for volume, m := range s.Mounts {
		mount, err := holder.Adopt(m.Target, holder.MountOptions{Volume: m.Name, AllowOther: true})
		if err != nil {
			n.cfg.Logger.Info("a mount is gone", "mount", m.Target, "why", err)
			continue
		}
		p.add(volume, &mounted{target: m.Target, name: m.Name, mount: mount}, m.Served)
	}
	if p.disks, err = stillMounted(s.Disks); err != nil {
		return err
	}
	for volume, target := range s.Locals {
		if target, err = stillMounted(target); err != nil {
			return err
		}
		if target != "" {
			p.locals[volume] = target
		}
	}
	if len(p.mounts) == 0 && p.disks == "" && len(p.locals) == 0 {
		return nil // the node was restarted: the kubelet publishes anew
	}
	n.cfg.Logger.Info("took charge of a pod's mounts", "namespace", s.Pod.Namespace, "pod", s.Pod.Name, "mounts", len(p.mounts))
	if s.Admission == nil {
		return n.save(p)
	}
	return errors.Join(n.serve(p), n.save(p))
}

// stillMounted returns target if something is mounted there.
func stillMounted(target string) (string, error) {
	if target == "" {
		return "", nil
	}
	found, err := host.MountsBelow(target)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return target, nil
}

// unserved lists the mounts with a descriptor here and nobody who serves: those that would be lost if the plugin stopped now.
func (n *node) unserved() int {
	count := 0
	for _, p := range n.allPods() {
		p.live.Lock()
		for _, s := range p.serving {
			if s.served && !s.now && !s.aborted && !s.mount.Orphan() && time.Since(s.since) < n.cfg.HangBudget {
				count++
			}
		}
		p.live.Unlock()
	}
	return count
}

func (n *node) allPods() []*pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*pod, 0, len(n.pods))
	for _, p := range n.pods {
		all = append(all, p)
	}
	return all
}
