package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/status"
)

// askLimit bounds every question to a sidecar, so that status stays below a second.
const askLimit = 600 * time.Millisecond

// serveControl answers on DIR/control.sock until ctx is done:
//
//	GET  /status              status.Report
//	POST /pods/{pod}/restart  nothing, when the pod serves again
//	POST /pods/{pod}/upgrade  upgraded, when another binary serves the pod (?binary=PATH)
//	POST /nodes/{node}/fail   Failure, when its pods serve on another node (?replaceAfter=DURATION&keepDisk=BOOL)
//	POST /nodes/{node}/return nothing, when its disks are back
//	POST /volumes/{volume}/accept-loss  Loss, when the volume's pod is started again
//	POST /volumes/{volume}/replicas?n=N  Resized, when the Volume object says so
//
// An error is a JSON object with the key "error".
func (s *supervisor) serveControl(ctx context.Context, work *sync.WaitGroup) error {
	l, err := holder.Listen(s.layout.control())
	if err != nil {
		return unusable(s.cfg.Dir, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, s.report(r.Context()))
	})
	mux.HandleFunc("POST /pods/{pod}/restart", func(w http.ResponseWriter, r *http.Request) {
		answerPod(w, struct{}{}, s.restart(r.Context(), r.PathValue("pod")))
	})
	mux.HandleFunc("POST /pods/{pod}/upgrade", func(w http.ResponseWriter, r *http.Request) {
		pause, err := s.upgrade(r.Context(), r.PathValue("pod"), r.URL.Query().Get("binary"))
		answerPod(w, upgraded{pause}, err)
	})
	mux.HandleFunc("POST /nodes/{node}/fail", func(w http.ResponseWriter, r *http.Request) {
		after, err := time.ParseDuration(r.URL.Query().Get("replaceAfter"))
		var f Failure
		if err == nil {
			f, err = s.failNode(r.Context(), r.PathValue("node"), after, r.URL.Query().Get("keepDisk") == "true")
		}
		answerPod(w, f, err)
	})
	mux.HandleFunc("POST /nodes/{node}/return", func(w http.ResponseWriter, r *http.Request) {
		answerPod(w, struct{}{}, s.returnNode(r.PathValue("node")))
	})
	mux.HandleFunc("POST /volumes/{volume}/replicas", func(w http.ResponseWriter, r *http.Request) {
		var resized Resized
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err == nil {
			resized, err = s.resize(r.Context(), r.PathValue("volume"), n)
		}
		answerPod(w, resized, err)
	})
	mux.HandleFunc("POST /volumes/{volume}/accept-loss", func(w http.ResponseWriter, r *http.Request) {
		loss, err := s.acceptLoss(r.Context(), r.PathValue("volume"))
		answerPod(w, loss, err)
	})
	server := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: 10 * time.Second}
	work.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Log.Error("the control socket failed", "err", err)
		}
	})
	work.Go(func() {
		<-ctx.Done()
		_ = server.Shutdown(context.WithoutCancel(ctx)) // handlers end with ctx
	})
	return nil
}

func answerPod(w http.ResponseWriter, result any, err error) {
	switch {
	case err == nil:
		answer(w, http.StatusOK, result)
	case errors.Is(err, errUnknownPod), errors.Is(err, errUnknownNode), errors.Is(err, errUnknownVolume):
		answer(w, http.StatusNotFound, failure{err.Error()})
	default:
		answer(w, http.StatusInternalServerError, failure{err.Error()})
	}
}

type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may have hung up
}

// ask gets a path from a pod's sidecar within askLimit.
func (s *supervisor) ask(ctx context.Context, pod, path string, to io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return call(ctx, s.layout.sidecar(pod), http.MethodGet, path, to)
}

// call makes one HTTP request over a unix socket and copies the answer.
func call(ctx context.Context, socket, method, path string, to io.Writer) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return holder.Dial(ctx, socket) }
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, method, "http://remora"+path, nil)
	if err != nil {
		return err
	}
	a, err := client.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusOK {
		_, err = io.Copy(to, a.Body)
		return err
	}
	var f failure
	if json.NewDecoder(a.Body).Decode(&f) != nil || f.Error == "" {
		f.Error = a.Status
	}
	return errors.New(f.Error)
}

// Status asks the supervisor of dir. The answer comes within a second, also while sidecars are down.
func Status(ctx context.Context, dir string) (status.Report, error) {
	var report status.Report
	var b bytes.Buffer
	if err := callSupervisor(ctx, dir, http.MethodGet, "/status", &b); err != nil {
		return report, err
	}
	if err := json.Unmarshal(b.Bytes(), &report); err != nil {
		return report, fmt.Errorf("answer of the supervisor: %w", err)
	}
	return report, nil
}

// RestartPod deletes and recreates a pod, named as in Status, and returns when it serves again.
func RestartPod(ctx context.Context, dir, pod string) error {
	if pod == "" || strings.Contains(pod, "/") {
		return badPodName(pod)
	}
	return callSupervisor(ctx, dir, http.MethodPost, "/pods/"+pod+"/restart", io.Discard)
}

// Upgrade lets another binary serve a pod, or all of them one after another, and reports each pause. An empty binary is the file
// that now has the name of the running supervisor's.
func Upgrade(ctx context.Context, dir, pod, binary string, report func(pod string, pause time.Duration)) error {
	pods := []string{pod}
	if pod == "" {
		st, err := Status(ctx, dir)
		if err != nil {
			return err
		}
		pods = nil
		for _, p := range st.Pods {
			pods = append(pods, p.Name)
		}
	}
	for _, pod := range pods {
		if strings.Contains(pod, "/") {
			return badPodName(pod)
		}
		var b bytes.Buffer
		var u upgraded
		if err := callSupervisor(ctx, dir, http.MethodPost, "/pods/"+pod+"/upgrade?"+url.Values{"binary": {binary}}.Encode(), &b); err != nil {
			return err
		}
		if err := json.Unmarshal(b.Bytes(), &u); err != nil {
			return fmt.Errorf("answer of the supervisor: %w", err)
		}
		report(pod, u.Pause)
	}
	return nil
}

// FailNode plays the loss of a node: everything on it dies at once, and its pods start on an empty one. Its replicas are replaced after the
// delay. Its disks are gone, or kept for ReturnNode. It returns when the pods serve, or never will.
func FailNode(ctx context.Context, dir, node string, replaceAfter time.Duration, keepDisk bool) (Failure, error) {
	var f Failure
	q := url.Values{"replaceAfter": {replaceAfter.String()}, "keepDisk": {fmt.Sprint(keepDisk)}}
	err := callFor(ctx, dir, "/nodes/"+url.PathEscape(node)+"/fail?"+q.Encode(), &f)
	return f, err
}

// ReturnNode brings back a node that failed and whose disks were kept.
func ReturnNode(ctx context.Context, dir, node string) error {
	return callFor(ctx, dir, "/nodes/"+url.PathEscape(node)+"/return", &struct{}{})
}

// AcceptLoss lets a volume that has lost the majority of its disks go on with what is left.
func AcceptLoss(ctx context.Context, dir, volume string) (Loss, error) {
	var l Loss
	err := callFor(ctx, dir, "/volumes/"+url.PathEscape(volume)+"/accept-loss", &l)
	return l, err
}

// Replicas gives a volume another number of copies. It returns when the Volume object says so; Status shows how far it is.
func Replicas(ctx context.Context, dir, volume string, n int) (Resized, error) {
	var r Resized
	err := callFor(ctx, dir, "/volumes/"+url.PathEscape(volume)+"/replicas?n="+strconv.Itoa(n), &r)
	return r, err
}

// callFor asks the supervisor to do something, and reads its answer.
func callFor(ctx context.Context, dir, path string, result any) error {
	var b bytes.Buffer
	if err := callSupervisor(ctx, dir, http.MethodPost, path, &b); err != nil {
		return err
	}
	if err := json.Unmarshal(b.Bytes(), result); err != nil {
		return fmt.Errorf("answer of the supervisor: %w", err)
	}
	return nil
}

func badPodName(pod string) error {
	return fmt.Errorf("pod %q: must be a name as `remora status` prints it, for example db-0", pod)
}

func callSupervisor(ctx context.Context, dir, method, path string, to io.Writer) error {
	err := call(ctx, layout(dir).control(), method, path, to)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("no remora dev is running on %s; start it with: remora dev --dir %s", dir, dir)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("the remora dev on %s belongs to root; run this as root, too: %w", dir, err)
	}
	return err
}
