package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/status"

	"github.com/remora-storage/remora/node/host"
)

// Held is the one pod for which Hold does what the plugin does for all pods of a node.
type Held struct {
	Namespace, Pod, UID string
	Disks               string // directory of this container at which the sidecar finds its disk directories and the socket
}

// Pauses of Hold: between tries to get the pod's volumes, and between looks for what others left behind.
const (
	firstTry   = 100 * time.Millisecond
	longestTry = 5 * time.Second
	sweepEvery = time.Minute
)

// Hold is the node plugin of one pod, in a privileged sidecar's container, until ctx ends: then nothing of it is mounted any more. It keeps the
// descriptors while `remora sidecar` beside it is started anew, and gets them back from that after its own death (what it knows is in
// Config.KubeletDir, which is the container's own). With the container everything ends: mounts that it left are taken away by the next one of
// this pod, or by that of any other pod of this node.
//
// Below Config.Root, which must be the node's folder with Bidirectional propagation, it mounts at .mounts/pods/<uid>/<volume>. The folder <uid> is a
// read-only tmpfs: where a mount is missing, kubelet finds a directory there in which nothing can be written.
func Hold(ctx context.Context, cfg Config, h Held) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if h.Namespace == "" || h.Pod == "" || !podUID.MatchString(h.UID) {
		return fmt.Errorf("POD_NAMESPACE %q, POD_NAME %q, POD_UID %q: the injector sets these", h.Namespace, h.Pod, h.UID)
	}
	for _, dir := range []string{filepath.Join(cfg.pluginDir(), "state"), filepath.Join(cfg.pluginDir(), "pods"), h.Disks} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make a directory of the container: %w", err)
		}
	}
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	n := newNode(inner, cfg)
	n.hold = true
	n.background.Go(func() { n.watch(inner) })
	n.background.Go(func() { n.tellAll(inner) })
	stopHTTP, err := n.listenHTTP()
	if err != nil {
		return err
	}
	defer stopHTTP()
	held, err := n.holdPod(ctx, h)
	if err == nil {
		n.registered.Store(true)
		<-ctx.Done()
		err = held.end()
	}
	stop()
	n.letGo()
	n.background.Wait()
	return err
}

// held is a running Hold.
type held struct {
	n     *node
	id    podID
	disks string
	shelf *shelf
}

// holdPod returns when the sidecar can have everything.
func (n *node) holdPod(ctx context.Context, h Held) (*held, error) {
	shelf, err := openShelf(ctx, n.cfg.Root, h.UID)
	if err != nil {
		return nil, err
	}
	if err := n.recover(); err != nil {
		return nil, err
	}
	k := &held{n: n, id: podID{h.Namespace, h.Pod, h.UID}, disks: h.Disks, shelf: shelf}
	pause, said := firstTry, ""
	for {
		err := k.publish(ctx)
		if err == nil {
			n.background.Go(func() { shelf.sweep(n.ctx, n.cfg.Logger) })
			return k, nil
		}
		if err.Error() != said {
			said = err.Error()
			n.cfg.Logger.Warn("the pod's volumes cannot be had yet", "pod", h.Pod, "err", err)
		}
		var why *refusal
		if errors.As(err, &why) {
			n.tell(k.id, true, why.reason, status.Convert(why.err).Message())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err, k.end())
		case <-time.After(pause):
			pause = min(2*pause, longestTry)
		}
	}
}

// publish makes what is not there yet. The socket becomes visible last: a sidecar never asks for a mount that is still to come.
func (k *held) publish(ctx context.Context) error {
	n := k.n
	p := n.lockPod(k.id)
	defer n.release(p)
	a := p.admission.Load()
	if a == nil {
		var err error
		if a, err = n.admit(ctx, k.id); err != nil {
			return err
		}
		p.admission.Store(a)
	}
	names := make([]string, 0, len(a.Volumes))
	for _, v := range a.Volumes {
		names = append(names, v.Volume)
	}
	if err := errors.Join(k.shelf.make(names), n.serve(p)); err != nil {
		return err
	}
	for _, name := range names {
		if p.mounts[name] != nil {
			continue
		}
		path := filepath.Join(k.shelf.path, name)
		left, err := host.MountsBelow(path)
		if err == nil {
			err = n.clear(path)
		}
		if err != nil {
			return err
		}
		if len(left) > 0 {
			n.tell(k.id, true, "VolumeMountedAnew", fmt.Sprintf("volume %s was mounted anew: the container of the sidecar had ended, and with it the connection. Containers that were started before "+
				"see \"transport endpoint is not connected\": delete the pod", name))
		}
		if err := n.publishMount(p, request{pod: k.id, kind: KindMount, target: target{path: path, volume: name}}, a); err != nil {
			return err
		}
	}
	if p.disks != "" {
		return nil
	}
	if err := n.clear(k.disks); err != nil {
		return err
	}
	place, err := host.Root(k.disks)
	if err != nil {
		return err
	}
	defer place.Close()
	return n.publishDisks(p, request{pod: k.id, kind: KindDisks, target: target{path: k.disks, volume: disksVolume}}, a, place)
}

// end takes everything away, whatever state it is in.
func (k *held) end() error {
	p := k.n.lockPod(k.id)
	defer k.n.release(p)
	var errs []error
	for volume := range p.mounts {
		errs = append(errs, p.remove(volume))
	}
	p.disks = ""
	return errors.Join(append(errs, host.Detach(k.disks), k.shelf.remove())...)
}
