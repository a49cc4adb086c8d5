package node_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node"
	"github.com/remora-storage/remora/node/host"
	"github.com/remora-storage/remora/sidecar"
	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/webhook/spec"
)

// patience bounds every wait: generous, for the machine may be busy.
const patience = 120 * time.Second

// rig is one node: a kubelet's directory, a disk, an API server and the plugin.
type rig struct {
	t      *testing.T
	dir    string
	cfg    node.Config
	api    *fakeAPI
	plugin *process
	driver csi.NodeClient

	mu        sync.Mutex
	processes []*process
}

func newRig(t *testing.T, change func(*node.Config)) *rig {
	t.Helper()
	needFUSE(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // sidecars are nobody
	r := &rig{t: t, dir: dir, api: newFakeAPI(t), cfg: node.Config{Node: "n1", KubeletDir: filepath.Join(dir, "kubelet"), Root: filepath.Join(dir, "disk"), Listen: freePort(t)}}
	for _, d := range []string{"kubelet/pods", "kubelet/plugins_registry", "disk"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	if change != nil {
		change(&r.cfg)
	}
	r.api.optIn("default")
	t.Cleanup(func() { // after the plugin and the sidecars: nobody serves any more
		_, err := holder.Sweep(dir, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		require.NoError(t, host.Detach(dir))
	})
	if r.cfg.KubeletDir == "" { // of privileged mode: there is no plugin
		return r
	}
	r.start()
	conn, err := grpc.NewClient("passthrough:///csi", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return holder.Dial(ctx, filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/csi.sock"))
		}))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	r.driver = csi.NewNodeClient(conn)
	return r
}

func needFUSE(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount FUSE")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// process is a part of the test that can be killed.
type process struct {
	*exec.Cmd
	r   *rig
	out *bufio.Scanner
	in  io.Closer
}

func (r *rig) run(role string, uid uint32, args ...string) *process {
	t := r.t
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	if !testing.Verbose() {
		cmd.Stderr = nil
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{Cmd: cmd, r: r, out: bufio.NewScanner(out), in: in}
	r.mu.Lock()
	r.processes = append(r.processes, p)
	r.mu.Unlock()
	t.Cleanup(p.kill)
	return p
}

// guard ends everything if stop is not called in time: what waits on a mount that nobody serves cannot be killed alone.
func (r *rig) guard(what string) (stop func()) {
	timer := time.AfterFunc(patience, func() {
		r.t.Errorf("not in %v: %s", patience, what)
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range r.processes {
			_ = p.Process.Kill()
		}
	})
	return func() { timer.Stop() }
}

func (p *process) kill() { p.end(syscall.SIGKILL) }

// wait waits for the end of a process.
func (p *process) wait() error {
	defer p.r.guard("a process ends")()
	return p.Wait()
}

// end sends a signal and waits.
func (p *process) end(sig syscall.Signal) {
	if p.ProcessState != nil {
		return
	}
	_ = p.Process.Signal(sig)
	_ = p.wait()
}

// start starts the plugin and waits until it answers.
func (r *rig) start() {
	r.t.Helper()
	cfg, err := json.Marshal(r.cfg)
	require.NoError(r.t, err)
	r.plugin = r.run(rolePlugin, 0, string(cfg), r.api.kubeconfig(r.dir))
	r.eventually("the plugin answers", func() bool {
		c, err := holder.Dial(r.t.Context(), filepath.Join(r.cfg.KubeletDir, "plugins_registry/remora.dev-reg.sock"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// eventually waits for something that happens elsewhere.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		require.True(r.t, time.Now().Before(deadline), "not in %v: %s", patience, what)
		time.Sleep(5 * time.Millisecond)
	}
}

// target is where the kubelet wants a volume of a pod.
func (r *rig) target(p *corev1.Pod, volume string) string {
	return filepath.Join(r.cfg.KubeletDir, "pods", string(p.UID), "volumes/kubernetes.io~csi", volume, "mount")
}

func publishRequest(target string, p *corev1.Pod, attributes map[string]string) *csi.NodePublishVolumeRequest {
	all := map[string]string{"csi.storage.k8s.io/pod.name": p.Name, "csi.storage.k8s.io/pod.namespace": p.Namespace,
		"csi.storage.k8s.io/pod.uid": string(p.UID), "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/serviceAccount.name": "default"}
	for k, v := range attributes {
		all[k] = v
	}
	return &csi.NodePublishVolumeRequest{VolumeId: "csi-" + target, TargetPath: target, VolumeContext: all, VolumeCapability: &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}}
}

// publish is what the kubelet does before it starts containers.
func (r *rig) publish(p *corev1.Pod, volume string, attributes map[string]string) error {
	target := r.target(p, volume)
	require.NoError(r.t, os.MkdirAll(filepath.Dir(target), 0o755))
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	_, err := r.driver.NodePublishVolume(ctx, publishRequest(target, p, attributes), grpc.WaitForReady(true))
	return err
}

func (r *rig) publishMount(p *corev1.Pod, volume string) error {
	return r.publish(p, volume, map[string]string{"kind": "mount", "volume": volume})
}

func (r *rig) publishDisks(p *corev1.Pod) error {
	return r.publish(p, "remora-disks", map[string]string{"kind": "disks"})
}

func (r *rig) unpublish(p *corev1.Pod, volumes ...string) {
	r.t.Helper()
	for _, v := range volumes {
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		_, err := r.driver.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: "v", TargetPath: r.target(p, v)}, grpc.WaitForReady(true))
		cancel()
		require.NoError(r.t, err)
		require.NoDirExists(r.t, r.target(p, v))
	}
}

// publishAll publishes everything of a pod of one volume, called data.
func (r *rig) publishAll(p *corev1.Pod) {
	r.t.Helper()
	require.NoError(r.t, r.publishMount(p, "data"))
	require.NoError(r.t, r.publishDisks(p))
}

func (r *rig) socket(p *corev1.Pod) string {
	return filepath.Join(r.target(p, "remora-disks"), "run/node.sock")
}

// sidecar starts the pod's sidecar, as nobody, with what it sees in its container.
func (r *rig) sidecar(p *corev1.Pod, volumes ...string) *process {
	return r.sidecarAt(p, "node", r.target(p, "remora-disks"), volumes...)
}

func (r *rig) sidecarAt(p *corev1.Pod, mode, disks string, volumes ...string) *process {
	r.t.Helper()
	socket := "unix:" + filepath.Join(disks, "run/node.sock")
	cfg := sidecar.Config{Mode: mode, Pod: p.Name, Namespace: p.Namespace, PodUID: string(p.UID), Node: r.cfg.Node, Disks: disks,
		Authority: socket, Keys: socket, Holder: socket, SegmentBytes: 1 << 20}
	if len(volumes) == 0 {
		volumes = []string{"data"}
	}
	for _, v := range volumes {
		parsed, err := spec.ParseVolumeFlag(flagOf(v))
		require.NoError(r.t, err)
		cfg.Volumes = append(cfg.Volumes, parsed)
	}
	b, err := json.Marshal(cfg)
	require.NoError(r.t, err)
	return r.run(roleSidecar, node.SidecarUID, string(b))
}

// program starts something that writes, and returns when it has written once.
func (r *rig) program(path string) *process {
	r.t.Helper()
	p := r.run(roleProgram, 0, path)
	p.progress()
	return p
}

// serves waits until the sidecar that opened an epoch of volume data serves.
func (r *rig) serves(p *corev1.Pod, epoch int) {
	r.t.Helper()
	r.eventually(fmt.Sprint("a sidecar serves in epoch ", epoch), func() bool {
		var o v1alpha1.VolumeObject
		return r.api.get(volumePath(p.Namespace, "data-"+p.Name), &o) && o.Status.Epoch >= uint64(epoch) && r.metric("remora_node_unserved_mounts") == 0 && r.metric("remora_node_mounts_without_descriptor") == 0
	})
}

// progress waits for the next writes, ten of them, that are not there yet.
func (p *process) progress() {
	p.r.t.Helper()
	defer p.r.guard("the program goes on")()
	for range 10 {
		require.True(p.r.t, p.out.Scan(), "the program has ended: %v", p.out.Err())
	}
}

// finish ends a program, which must not have seen any error.
func (p *process) finish() {
	p.r.t.Helper()
	defer p.r.guard("the program ends")()
	p.in.Close()
	last := ""
	for p.out.Scan() {
		last = p.out.Text()
	}
	require.NoError(p.r.t, p.Wait())
	require.Equal(p.r.t, "all there", last)
}

// metric reads one of the plugin's, -1 if it is not there.
func (r *rig) metric(name string) float64 {
	res, err := http.Get("http://" + r.cfg.Listen + "/metrics")
	if err != nil {
		return -1
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			var v float64
			_, err := fmt.Sscan(rest, &v)
			require.NoError(r.t, err)
			return v
		}
	}
	return -1
}

// read reads a file on a mount. While nobody serves it, that waits.
func (r *rig) read(path string) ([]byte, error) {
	r.t.Helper()
	type answer struct {
		b   []byte
		err error
	}
	got := make(chan answer, 1)
	go func() {
		b, err := os.ReadFile(path)
		got <- answer{b, err}
	}()
	select {
	case a := <-got:
		return a.b, a.err
	case <-time.After(patience):
		require.FailNow(r.t, "nobody answers", path) // the clean-up ends the connection, and the call with it
		return nil, nil
	}
}

// mounts lists what is mounted below the kubelet's directory.
func (r *rig) mounts() []string {
	r.t.Helper()
	found, err := host.MountsBelow(r.cfg.KubeletDir)
	require.NoError(r.t, err)
	var all []string
	for _, m := range found {
		all = append(all, m.Type+" "+strings.TrimPrefix(m.Path, r.cfg.KubeletDir))
	}
	return all
}

// register is the kubelet's side of the registration.
func (r *rig) register() (*registration.PluginInfo, registration.RegistrationClient) {
	conn, err := grpc.NewClient("passthrough:///reg", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return holder.Dial(ctx, filepath.Join(r.cfg.KubeletDir, "plugins_registry/remora.dev-reg.sock"))
		}))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	c := registration.NewRegistrationClient(conn)
	info, err := c.GetInfo(r.t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true))
	require.NoError(r.t, err)
	return info, c
}

// stateSays tells whether what the plugin keeps of a pod has a text in it.
func (r *rig) stateSays(p *corev1.Pod, text string) bool {
	b, err := os.ReadFile(filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/state", string(p.UID)+".json"))
	return err == nil && strings.Contains(string(b), text)
}

func contains(all []string, one string) bool { return slices.Contains(all, one) }
