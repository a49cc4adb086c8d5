package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/remora-storage/remora/e2e/cluster/binaries"
	"github.com/remora-storage/remora/manifests/image"
)

// pauseImage makes the image of every pod's sandbox, once; nodes import what lies in images/ when they start.
func (c cluster) pauseImage(ctx context.Context) error {
	tar := c.path("images", "pause.tar")
	if _, err := os.Stat(tar); err == nil {
		return nil
	}
	root, err := binaries.Root(ctx)
	if err != nil {
		return err
	}
	program := c.path("images", "pause")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, "./e2e/cluster/pause")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pause: %w\n%s", err, said)
	}
	return image.WriteFile(tar, image.Image{Name: "remora.test/pause:1", Platforms: []image.Platform{{
		Architecture: runtime.GOARCH,
		Files:        []image.File{{Path: "/pause", Mode: 0o755, From: program}},
		Entrypoint:   []string{"/pause"},
	}}})
}

// load imports archives of images into every node that is up. A tag that is there already moves to the new image.
func (c cluster) load(ctx context.Context, archives []string) error {
	results := make(chan error)
	for _, n := range nodes() {
		go func() {
			for _, a := range archives {
				if err := c.importInto(ctx, n, a); err != nil {
					results <- fmt.Errorf("%s: %s: %w", n, a, err)
					return
				}
			}
			results <- nil
		}()
	}
	var errs []error
	for range nodes() {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// importInto hands an archive to a node by standard input: a node sees the machine's files, but not those below its own mounts.
func (c cluster) importInto(ctx context.Context, n node, archive string) error {
	f, err := os.Open(filepath.Clean(archive))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	line, err := c.inside(n, "ctr", "-n", "k8s.io", "images", "import", "-")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdin = f
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}
