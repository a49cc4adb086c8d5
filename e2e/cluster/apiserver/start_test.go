package apiserver

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStart: it is the real one: it stores objects, and its admission refuses what Pod Security forbids.
func TestStart(t *testing.T) {
	s := Start(t)
	post := func(path, body string) (int, string) {
		client, err := clientOf(s.ca)
		require.NoError(t, err)
		defer client.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		var text bytes.Buffer
		_, err = text.ReadFrom(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, text.String()
	}
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"root"},"spec":{"containers":[{"name":"app","image":"x",
		"securityContext":{"privileged":true}}]}}`
	for _, level := range []string{"privileged", "restricted"} {
		status, text := post("/api/v1/namespaces", `{"metadata":{"name":"`+level+`","labels":{"pod-security.kubernetes.io/enforce":"`+level+`"}}}`)
		require.Equal(t, http.StatusCreated, status, text)
	}
	status, text := post("/api/v1/namespaces/privileged/pods", pod)
	require.Equal(t, http.StatusCreated, status, text)
	status, text = post("/api/v1/namespaces/restricted/pods", pod)
	require.Equal(t, http.StatusForbidden, status, text)
	require.Contains(t, text, "violates PodSecurity")
}

// TestStop: nothing is left of a server that was stopped.
func TestStop(t *testing.T) {
	s, stop, err := Run(t.Context(), t.TempDir())
	require.NoError(t, err)
	stop()
	client, err := clientOf(s.ca)
	require.NoError(t, err)
	_, err = client.Get(s.URL + "/readyz")
	require.ErrorContains(t, err, "refused")
}

// TestStartSaysWhy: a server that does not start says what it said.
func TestStartSaysWhy(t *testing.T) {
	_, _, err := Run(t.Context(), t.TempDir(), "--no-such-flag")
	require.ErrorContains(t, err, "unknown flag: --no-such-flag")
}
