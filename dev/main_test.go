package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/session/holder/holdertest"
	"github.com/remora-storage/remora/sidecar/status"
	"github.com/remora-storage/remora/webhook"
)

// TestMain lets the test binary play the supervisor ("supervisor DIR READY-FILE MANIFEST BUDGET") and, started by that, the sidecar.
func TestMain(m *testing.M) {
	var err error
	switch role := append(os.Args, "")[1]; role {
	case "supervisor":
		err = supervise(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	case "sidecar":
		err = fakeSidecar(os.Args[2:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func supervise(dir, ready, manifest, budget string) error {
	hangBudget, err := time.ParseDuration(budget)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	injected, err := webhook.Inject([]webhook.File{{Name: "test", Data: []byte(manifest)}}, webhook.Options{Mode: webhook.Dev})
	if err != nil {
		return err
	}
	return Run(ctx, Config{
		Workloads: injected.Workloads, Dir: dir, ReadyFile: ready, HangBudget: hangBudget,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Console: os.Stderr, Out: os.Stdout,
	})
}

// fakeSidecar serves empty directories. A file "hold" in its disk directory makes it wait before it serves, "fail" makes it die.
func fakeSidecar(args []string) error {
	if slices.Contains(args, "--help") {
		return nil
	}
	flags := map[string]string{}
	var volumes []string
	for _, arg := range args {
		key, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		flags[key] = strings.TrimPrefix(value, "unix:")
		if name, ok := strings.CutPrefix(value, "name="); ok {
			name, _, _ = strings.Cut(name, ",")
			volumes = append(volumes, name)
		}
	}
	fmt.Println("fake sidecar of", os.Getenv("POD_NAME"), os.Getenv("POD_UID"))
	if _, err := os.Stat(filepath.Join(flags["disks"], "fail")); err == nil {
		return errors.New("planted failure")
	}
	for {
		if _, err := os.Stat(filepath.Join(flags["disks"], "hold")); err != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	served := make(chan error, 8)
	pod := status.Pod{Name: os.Getenv("POD_NAME")}
	for _, v := range volumes {
		if err := serveVolume(flags["holder"], v, served); err != nil {
			return err
		}
		pod.Volumes = append(pod.Volumes, status.Volume{Name: v, State: status.Mounted, Epoch: 7, Size: 1 << 30, Replicas: []status.Replica{
			{ID: "r1", Pod: pod.Name, Role: status.Voter, State: status.InSync},
		}})
	}
	if err := answerHTTP(flags["listen"], pod); err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	select {
	case <-term:
		return nil
	case err := <-served:
		return err
	}
}

func serveVolume(socket, volume string, served chan<- error) error {
	c, err := holder.Attach(context.Background(), socket, volume)
	if err != nil {
		return err
	}
	if err := holdertest.Start(c); err != nil {
		return err
	}
	go func() { served <- holdertest.Serve(c) }()
	go func() {
		<-c.Done()
		served <- errors.New("the holder is gone")
	}()
	return nil
}

func answerHTTP(socket string, pod status.Pod) error {
	l, err := holder.Listen(socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(pod) })
	go func() { _ = http.Serve(l, mux) }()
	return nil
}
