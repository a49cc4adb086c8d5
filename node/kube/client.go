// Package kube is the node plugin's view of the API server: the few objects that it reads and the three that it writes (Volumes, Secrets
// with keys, events). Plain JSON over client-go's transport: no caches, no watches, nothing that grows with the cluster.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// callTimeout bounds one request.
const callTimeout = 10 * time.Second

// maxAnswer bounds what the API server may send; an object has at most 1.5 MiB.
const maxAnswer = 4 << 20

// ErrNotFound: there is no such object.
var ErrNotFound = errors.New("not found")

// ErrRefused: the API server answered, and changed nothing. ErrNotFound and ErrConflict are refusals, too.
var ErrRefused = errors.New("refused")

// ErrConflict: the object is there already, or has changed since it was read.
var ErrConflict = errors.New("changed meanwhile")

// Client asks the API server. It is safe for concurrent use.
type Client struct {
	http *http.Client
	base *url.URL
}

// New connects with a kubeconfig file, or, where its path is empty, as a pod does. Nothing is sent yet.
func New(kubeconfig, userAgent string) (*Client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("configuration of the API server: %w", err)
	}
	cfg.UserAgent = userAgent
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("configuration of the API server: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	return &Client{http: hc, base: base}, nil
}

// do sends in, if any, and reads the answer into out.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	path, query, _ := strings.Cut(path, "?")
	u := c.base.JoinPath(path)
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("API server: %s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		return refusal(method, path, res.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("API server: %s %s: %w", method, path, err)
	}
	return nil
}

func refusal(method, path string, code int, body []byte) error {
	why := http.StatusText(code)
	var st metav1.Status
	if json.Unmarshal(body, &st) == nil && st.Message != "" {
		why = st.Message
	}
	err := fmt.Errorf("API server: %s %s: %d: %s", method, path, code, why)
	switch {
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: %w: %w", ErrRefused, ErrNotFound, err)
	case code == http.StatusConflict:
		return fmt.Errorf("%w: %w: %w", ErrRefused, ErrConflict, err)
	case code/100 == 4 && code != http.StatusTooManyRequests:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
