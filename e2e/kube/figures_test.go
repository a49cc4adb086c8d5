//go:build kube

package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// TestStartTime measures from the moment at which a pod is created to the event that says that it is ready, with a volume and with an emptyDir,
// one pod after the other and turn by turn. It asserts nothing about time.
func TestStartTime(t *testing.T) {
	s := newSpace(t)
	ready := s.watchReady()
	app := shell("app", "data", "touch /data/x && exec sleep 100000")
	times := map[string][]time.Duration{}
	for i := range *pods {
		for kind, manifest := range map[string]string{
			"emptyDir": `{apiVersion: v1, kind: Pod, metadata: {name: e-%[1]d}, spec: {terminationGracePeriodSeconds: 0, ` + podSecurity + `,
				volumes: [{name: data, emptyDir: {}}], containers: [` + app + `]}}`,
			"volume": `{apiVersion: v1, kind: Pod, metadata: {name: v-%[1]d, ` + annotated("data") + `}, spec: {terminationGracePeriodSeconds: 0, ` + podSecurity + `,
				containers: [` + app + `]}}`,
		} {
			name := kind[:1] + "-" + strconv.Itoa(i)
			started := time.Now()
			s.apply(fmt.Sprintf(manifest, i))
			times[kind] = append(times[kind], ready(name).Sub(started))
			s.kubectl("delete", "pod", name, "--wait=false")
		}
	}
	report := func(kind string) (p50, p99 time.Duration) {
		d := times[kind]
		slices.Sort(d)
		return d[len(d)/2], d[len(d)*99/100]
	}
	e50, e99 := report("emptyDir")
	v50, v99 := report("volume")
	t.Logf("FIGURE pod start, %d pods each, from kubectl apply to Ready: emptyDir p50 %d ms p99 %d ms; volume p50 %d ms p99 %d ms; added p50 %d ms p99 %d ms",
		*pods, e50.Milliseconds(), e99.Milliseconds(), v50.Milliseconds(), v99.Milliseconds(), (v50 - e50).Milliseconds(), (v99 - e99).Milliseconds())
}

// watchReady watches the namespace's pods, and returns a function that waits for a pod to be ready and says when the event came.
func (s *space) watchReady() func(name string) time.Time {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, s.k.kubectl, "-n", s.name, "get", "pods", "--watch", "-o", "json")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.k.config)
	out, err := cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	var mu sync.Mutex
	seen := map[string]time.Time{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d := json.NewDecoder(bufio.NewReader(out))
		for {
			var p corev1.Pod
			if err := d.Decode(&p); err != nil {
				return
			}
			mu.Lock()
			if _, ok := seen[p.Name]; !ok && condition(&p, corev1.PodReady) {
				seen[p.Name] = time.Now()
			}
			mu.Unlock()
		}
	}()
	s.t.Cleanup(func() { cancel(); <-done; _ = cmd.Wait() })
	return func(name string) (at time.Time) {
		s.t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for time.Now().Before(deadline) {
			mu.Lock()
			at, ok := seen[name]
			mu.Unlock()
			if ok {
				return at
			}
			time.Sleep(5 * time.Millisecond)
		}
		require.FailNow(s.t, "waited two minutes for "+name)
		return at
	}
}

// TestAdmission asks the API server to admit 50 pods a second, without making them: plain pods, and then annotated ones. It compares what a client
// sees of the two, and the API server's own histogram of the webhook's calls, and the handlers' own, before and after.
func TestAdmission(t *testing.T) {
	s := newSpace(t)
	proxy := s.proxy()
	require.NoError(t, s.admit(proxy, 0))
	require.NoError(t, s.admitPlain(proxy, 0))
	plain50, plain99 := s.admitAtRate("without a volume", func(i int) error { return s.admitPlain(proxy, i) })
	before, beforeOwn := s.histograms(), s.handlers()
	with50, with99 := s.admitAtRate("with a volume", func(i int) error { return s.admit(proxy, i) })
	t.Logf("FIGURE admission, added by the webhook: p50 %.1f ms, p99 %.1f ms", with50-plain50, with99-plain99)
	for name, h := range s.histograms() {
		if text := h.minus(before[name]); text != "" {
			t.Logf("FIGURE admission, %s: %s (buckets of the API server, its own time for the call included)", name, text)
		}
	}
	for name, h := range s.handlers() {
		if text := h.minus(beforeOwn[name]); text != "" {
			t.Logf("FIGURE admission, %s of both webhooks: %s (buckets of their own, remora_admission_duration_seconds: the handler alone)", name, text)
		}
	}
	for _, line := range s.memory("remora-system", "webhook", "webhook") {
		t.Log("FIGURE webhook:", line)
	}
}

// admitAtRate admits 1,000 pods, 50 a second, and returns the quantiles of the whole requests, as the client sees them, in milliseconds.
func (s *space) admitAtRate(what string, create func(i int) error) (p50, p99 float64) {
	var mu sync.Mutex
	var times []time.Duration
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / 50)
	defer tick.Stop()
	places := make(chan struct{}, 20) // a machine that is too slow is asked less often, rather than by ever more at a time
	began := time.Now()
	for i := range 1000 {
		<-tick.C
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			began := time.Now()
			if err := create(i + 1); err != nil {
				s.t.Error(err)
			}
			mu.Lock()
			times = append(times, time.Since(began))
			mu.Unlock()
		})
	}
	all.Wait()
	slices.Sort(times)
	p50, p99 = float64(times[len(times)/2].Microseconds())/1000, float64(times[len(times)*99/100].Microseconds())/1000
	s.t.Logf("FIGURE admission, pods %s, %.1f a second of 50, the whole request of `kubectl create --dry-run=server`: p50 %.1f ms, p99 %.1f ms", what,
		1000/time.Since(began).Seconds(), p50, p99)
	return p50, p99
}

// admit asks the API server, by way of `kubectl proxy`, to admit a pod with a volume, without making it.
func (s *space) admit(proxy string, i int) error {
	return s.create(proxy, fmt.Sprintf(`"name":"p-%d","annotations":{"remora.dev/volumes":"data","data.remora.dev/size":"1Gi"}`, i), "", `"name":"remora"`)
}

// admitPlain does so with a pod that has an emptyDir.
func (s *space) admitPlain(proxy string, i int) error {
	return s.create(proxy, fmt.Sprintf(`"name":"e-%d"`, i), `"volumes":[{"name":"data","emptyDir":{}}],`, `"emptyDir"`)
}

func (s *space) create(proxy, metadata, volumes, want string) error {
	pod := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{%s},"spec":{%s
		"securityContext":{"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"app","image":"x",
		"securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}},"volumeMounts":[{"name":"data","mountPath":"/data"}]}]}}`, metadata, volumes)
	resp, err := http.Post(proxy+"/api/v1/namespaces/"+s.name+"/pods?dryRun=All", "application/json", strings.NewReader(pod))
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusCreated || !bytes.Contains(text, []byte(want)) {
		return fmt.Errorf("%s: %s: %w", resp.Status, text, err)
	}
	return nil
}

// proxy starts `kubectl proxy` and returns its URL.
func (s *space) proxy() string {
	cmd := exec.Command(s.k.kubectl, "proxy", "--port=0")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.k.config)
	out, err := cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	s.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(s.t, err)
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	require.NotEmpty(s.t, address, line)
	return "http://" + address
}

// histogram is a cumulative histogram: upper bounds in seconds, and how many calls were at most that long.
type histogram map[float64]float64

// histograms are the API server's, of the calls of our webhooks.
func (s *space) histograms() map[string]histogram {
	all := map[string]histogram{}
	s.addHistograms(all, s.kubectl("get", "--raw", "/metrics"),
		`(?m)^apiserver_admission_webhook_admission_duration_seconds_bucket\{name="([^"]*remora[^"]*)",operation="CREATE",.*type="(\w+)",le="([^"]+)"\} (\S+)$`)
	return all
}

// handlers are the webhooks' own histograms, of all servers together: what a handler takes, without the way to it.
func (s *space) handlers() map[string]histogram {
	all := map[string]histogram{}
	pods, err := s.k.run(s.t.Context(), "", "-n", "remora-system", "get", "pods", "-l", "app.kubernetes.io/name=remora-webhook", "-o", "jsonpath={.items[*].metadata.name}")
	require.NoError(s.t, err)
	for _, pod := range strings.Fields(pods) {
		out := s.kubectl("get", "--raw", "/api/v1/namespaces/remora-system/pods/"+pod+":8080/proxy/metrics")
		s.addHistograms(all, out, `(?m)^remora_admission_duration_seconds_bucket\{outcome="(\w+)",path="([^"]+)",le="([^"]+)"\} (\S+)$`)
	}
	return all
}

// addHistograms adds those of a text in Prometheus' form; the pattern's groups are two parts of a name, le, and the count.
func (s *space) addHistograms(all map[string]histogram, text, pattern string) {
	s.t.Helper()
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		le, err := strconv.ParseFloat(strings.Replace(m[3], "+Inf", "Inf", 1), 64)
		require.NoError(s.t, err)
		n, err := strconv.ParseFloat(m[4], 64)
		require.NoError(s.t, err)
		name := m[1] + " " + m[2]
		if all[name] == nil {
			all[name] = histogram{}
		}
		all[name][le] += n
	}
}

// minus says how many calls there were since another histogram, and which part of them was answered within which time; "" if there were none.
func (h histogram) minus(before histogram) string {
	var bounds []float64
	calls := 0.0
	for le := range h {
		bounds = append(bounds, le)
		calls = max(calls, h[le]-before[le])
	}
	if calls == 0 {
		return ""
	}
	slices.Sort(bounds)
	text := fmt.Sprintf("%.0f calls", calls)
	for _, le := range bounds {
		part := (h[le] - before[le]) / calls
		if text += fmt.Sprintf(", %.1f %% <= %g ms", 100*part, le*1000); part == 1 {
			break
		}
	}
	return text
}

// memory says what the processes of containers of pods whose name has this part hold: the proportional set size, and CPU time.
func (s *space) memory(namespace, part, container string) (lines []string) {
	s.t.Helper()
	out, err := s.k.run(s.t.Context(), "", "-n", namespace, "get", "pods", "-o", "json")
	require.NoError(s.t, err)
	var list corev1.PodList
	require.NoError(s.t, json.Unmarshal([]byte(out), &list))
	ids := map[string][]string{}
	for i := range list.Items {
		p := &list.Items[i]
		if id := containerID(p, container); id != "" && strings.Contains(p.Name, part) {
			ids[p.Spec.NodeName] = append(ids[p.Spec.NodeName], id)
		}
	}
	for node, containers := range ids {
		out, err := s.k.on(s.t.Context(), node, fmt.Sprintf(`
			for d in $(grep -lE '%s' /proc/[0-9]*/cgroup 2>/dev/null); do d=${d%%/cgroup}
			echo $(tr '\0' ' ' <$d/cmdline | cut -d' ' -f1) $(awk '/^Pss:/ {print $2}' $d/smaps_rollup) $(sed 's/.*) //' $d/stat | cut -d' ' -f12,13); done`, strings.Join(containers, "|")))
		require.NoError(s.t, err)
		sums, count := map[string][2]int{}, map[string]int{}
		for _, l := range strings.Split(out, "\n") {
			var program string
			var pss, user, system int
			if n, _ := fmt.Sscan(l, &program, &pss, &user, &system); n == 4 {
				sums[program] = [2]int{sums[program][0] + pss, sums[program][1] + user + system}
				count[program]++
			}
		}
		for program, v := range sums {
			lines = append(lines, fmt.Sprintf("%s: %d of %s hold %.1f MiB (PSS), have used %.2f s of CPU", node, count[program], program, float64(v[0])/1024, float64(v[1])/100))
		}
	}
	slices.Sort(lines)
	return lines
}

// TestCrowd starts many pods with a volume on one node and says what everything of Remora there costs, at rest.
func TestCrowd(t *testing.T) {
	s := newSpace(t)
	// A node of two cores has no room for a hundred times the default request of 50m.
	s.class("e2e-crowd", "{sidecar: {resources: {requests: {cpu: 5m, memory: 16Mi}}}}")
	started := time.Now()
	s.apply(strings.Replace(strings.Replace(strings.Replace(statefulSet("many", *crowd, shell("app", "data", "echo x >/data/x; exec sleep 100000")), "serviceName: many,",
		"serviceName: many, podManagementPolicy: Parallel,", 1), "data.remora.dev/size: 8Gi", "data.remora.dev/size: 8Gi, data.remora.dev/class: e2e-crowd", 1), "terminationGracePeriodSeconds: 5,", "terminationGracePeriodSeconds: 1, nodeSelector: {kubernetes.io/hostname: "+s.someNode()+"},", 1))
	deadline := time.Now().Add(8 * time.Minute)
	for ready := ""; ready != strconv.Itoa(*crowd); ready = s.kubectl("get", "statefulset", "many", "-o", "jsonpath={.status.readyReplicas}") {
		require.True(t, time.Now().Before(deadline), "%s of %d pods are ready", ready, *crowd)
		time.Sleep(time.Second)
	}
	t.Logf("FIGURE crowd: %d pods on one node are ready after %.0f s", *crowd, time.Since(started).Seconds())
	time.Sleep(10 * time.Second)
	first := append(s.memory(s.name, "many", "remora"), s.memory("remora-system", "node", "node")...)
	time.Sleep(30 * time.Second)
	second := append(s.memory(s.name, "many", "remora"), s.memory("remora-system", "node", "node")...)
	for i := range first {
		t.Log("FIGURE crowd:", first[i], "; 30 s later:", second[min(i, len(second)-1)])
	}
}

func (s *space) someNode() string {
	return s.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
}
