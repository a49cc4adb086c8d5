package sidecar

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/status"
)

// listen answers /readyz, /status and /metrics until stop is called.
func (s *sidecar) listen() (stop func(), err error) {
	if s.cfg.Listen == "" {
		return func() {}, nil
	}
	var l net.Listener
	if path, ok := strings.CutPrefix(s.cfg.Listen, "unix:"); ok {
		l, err = holder.Listen(path)
	} else {
		l, err = net.Listen("tcp", s.cfg.Listen)
	}
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /status", s.status)
	mux.Handle("GET /metrics", s.trace.Handler())
	if l.Addr().Network() == "unix" { // for this user alone
		mux.HandleFunc("GET /verify", s.verify)
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // always ends with an error: Close
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-done
	}, nil
}

// kubelet asks once a second and gives an answer a second. A pod whose sidecar is ready 0.3 s after the question would lose the other 0.7:
// the answer waits that long for it to be "ready".
const (
	readyzWait = 800 * time.Millisecond
	readyzLook = 10 * time.Millisecond
)

// readyz is 200 when every volume is mounted.
func (s *sidecar) readyz(w http.ResponseWriter, r *http.Request) {
	if s.cfg.held() {
		until, cancel := context.WithTimeout(r.Context(), readyzWait)
		defer cancel()
		look := time.NewTicker(readyzLook)
		defer look.Stop()
		for !s.mounted() && until.Err() == nil {
			select {
			case <-until.Done():
			case <-look.C:
			}
		}
	}
	for _, v := range s.volumes {
		if st := v.status(); st.State != status.Mounted {
			http.Error(w, "volume "+st.Volume+" is "+st.State, http.StatusServiceUnavailable)
			return
		}
	}
	if s.host != nil {
		if err := s.host.settled(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = w.Write([]byte("ok\n"))
}

// mounted tells whether every volume is.
func (s *sidecar) mounted() bool {
	return !slices.ContainsFunc(s.volumes, func(v *volume) bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.state != status.Mounted
	})
}

func (s *sidecar) status(w http.ResponseWriter, _ *http.Request) {
	pid := os.Getpid()
	p := status.Pod{Name: s.cfg.Pod, Node: s.cfg.Node, PID: &pid, Volumes: []status.Volume{}, Hosted: []status.Hosted{}}
	if s.host != nil {
		p.Hosted = s.host.report()
	}
	for _, v := range s.volumes {
		p.Volumes = append(p.Volumes, v.status())
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(p) // who asked is gone
}

func (v *volume) status() status.Volume {
	v.mu.Lock()
	defer v.mu.Unlock()
	st := status.Volume{Name: v.spec.Name, Volume: v.object.Name, State: v.state, Epoch: v.object.Epoch,
		Size: uint64(v.object.Size), Replicas: []status.Replica{}}
	replicaState := status.Offline
	if v.ready {
		log := v.group.Status()
		st.AppliedIndex, st.CommittedIndex = uint64(log.Applied), uint64(log.Committed)
		st.Used = v.fs.Used()
		replicaState = status.InSync
		if log.Err != nil {
			st.State, replicaState = status.Failed, status.Offline
		}
	}
	if v.state == status.Damaged {
		replicaState = status.Damaged
	}
	if v.object.Several() && v.s.host != nil {
		o, _ := v.s.host.object(v.object.Name)
		if o.MajorityLost() {
			st.State = status.MajorityLost
		}
		st.Replicas = v.s.host.replicas(v.object.Name)
		return st
	}
	for _, m := range v.object.Members {
		st.Replicas = append(st.Replicas, status.Replica{ID: m.Replica, Pod: v.s.cfg.Pod, Node: m.Node, Role: m.Role, State: replicaState, MatchIndex: st.CommittedIndex})
	}
	return st
}
