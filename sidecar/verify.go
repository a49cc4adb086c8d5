package sidecar

import (
	"encoding/json"
	"net/http"
)

// verify compares the replicas of a volume of which one is served here: /verify?volume=NAME, with scrub=1 also every block with its seal.
func (s *sidecar) verify(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v) // the client may have hung up
	}
	failed := func(code int, why string) { answer(code, map[string]string{"error": why}) }
	name := r.URL.Query().Get("volume")
	g := s.hostedGroup(name)
	if g == nil {
		failed(http.StatusNotFound, "no replica of volume "+name+" with peers is served here")
		return
	}
	v, err := g.Verify(r.Context(), r.URL.Query().Get("scrub") == "1")
	if err != nil {
		failed(http.StatusInternalServerError, err.Error())
		return
	}
	answer(http.StatusOK, v)
}

// hostedGroup is the group of a volume with several replicas of which one is open here, or nil.
func (s *sidecar) hostedGroup(volume string) *peerGroup {
	if s.host == nil {
		return nil
	}
	for _, r := range s.host.list() {
		if r.volume != volume {
			continue
		}
		r.mu.Lock()
		g, ok := r.group.(*peerGroup)
		r.mu.Unlock()
		if ok {
			return g
		}
	}
	return nil
}
