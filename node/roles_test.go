package node_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/remora-storage/remora/node"
	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/sidecar"
)

// The test binary plays the plugin, sidecars and programs, which are processes of their own so that they can be killed.
const (
	roleVariable = "NODE_TEST_ROLE"
	rolePlugin   = "plugin"
	roleHold     = "hold"
	roleSidecar  = "sidecar"
	roleProgram  = "program"
)

func TestMain(m *testing.M) {
	var err error
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case rolePlugin:
		err = plugin(ctx, log)
	case roleHold:
		err = hold(ctx, log)
	case roleSidecar:
		var cfg sidecar.Config
		if err = json.Unmarshal([]byte(os.Args[1]), &cfg); err == nil {
			cfg.Logger = log
			err = sidecar.Run(ctx, cfg)
		}
	case roleProgram:
		err = program(os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv(roleVariable)+":", err)
		os.Exit(1)
	}
}

func plugin(ctx context.Context, log *slog.Logger) error {
	var cfg node.Config
	if err := json.Unmarshal([]byte(os.Args[1]), &cfg); err != nil {
		return err
	}
	client, err := kube.New(os.Args[2], "test")
	if err != nil {
		return err
	}
	cfg.API, cfg.Keys, cfg.Logger = client, kube.Keys{Client: client, Namespace: "remora-system"}, log
	return node.Run(ctx, cfg)
}

func hold(ctx context.Context, log *slog.Logger) error {
	var cfg node.Config
	var h node.Held
	if err := errors.Join(json.Unmarshal([]byte(os.Args[1]), &cfg), json.Unmarshal([]byte(os.Args[3]), &h)); err != nil {
		return err
	}
	client, err := kube.New(os.Args[2], "test")
	if err != nil {
		return err
	}
	cfg.API, cfg.Keys, cfg.Logger = client, node.FileKeys{Root: cfg.Root}, log
	return node.Hold(ctx, cfg, h)
}

// program appends lines to a file, each synced, and says how many there are, until its input ends; then it reads all of them back.
func program(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	end := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(end)
	}()
	count := 0
	for {
		select {
		case <-end:
			return readBack(path, count)
		default:
		}
		if _, err := fmt.Fprintf(f, "line %d\n", count); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		count++
		fmt.Println(count)
	}
}

func readBack(path string, count int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for i := range count {
		if want := fmt.Sprintf("line %d", i); !lines.Scan() || lines.Text() != want {
			return fmt.Errorf("line %d of %d is %q: %w", i, count, lines.Text(), lines.Err())
		}
	}
	fmt.Println("all there")
	return nil
}
