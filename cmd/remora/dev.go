package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/dev"
	"github.com/remora-storage/remora/examples"
	"github.com/remora-storage/remora/webhook"
)

// defaultDir is where dev keeps its data unless told otherwise.
const defaultDir = "./.remora-dev"

func devCommand() *cobra.Command {
	var files []string
	cfg := dev.Config{}
	cmd := &cobra.Command{
		Use:   "dev [-f FILE]... [FILE...]",
		Short: "Run annotated workloads' volumes on this machine, without Kubernetes",
		Long: `Run annotated workloads' volumes on this machine, without Kubernetes.

The manifests are injected as in a cluster, every pod's sidecar runs as a process of its own, and each volume is mounted at
DIR/pods/<pod>/<volume> for your own programs. A sidecar that dies is restarted; the mount waits for it. Ctrl-C unmounts and
stops; the next start on the same DIR finds the data again. Root is needed.`,
		Example: `  remora dev                                  # an example StatefulSet
  remora dev -f db.yaml --dir /var/tmp/dev
  remora status --dir /var/tmp/dev
  remora dev restart-pod db-0 --dir /var/tmp/dev`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDev(cmd, cfg, append(files, args...))
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&files, "file", "f", nil, "manifest `FILE`, - for stdin; may be repeated (default: an example StatefulSet)")
	f.StringVar(&cfg.Dir, "dir", defaultDir, "keep data, sockets, logs and mounts in `DIR`; made if missing")
	f.StringVar(&cfg.ReadyFile, "ready-file", "", "write `PATH` when all volumes are mounted")
	f.IntVar(&cfg.Nodes, "nodes", 0, "number `N` of simulated nodes (default: one per pod)")
	f.StringVar(&cfg.OTLP, "otlp-endpoint", "", "send traces to `URL`: http://HOST:4318, grpc://HOST:4317 or file:PATH (default: DIR/traces/<pod>.jsonl)")
	cmd.AddCommand(restartPodCommand())
	return cmd
}

func runDev(cmd *cobra.Command, cfg dev.Config, names []string) error {
	files := []webhook.File{{Name: "the example", Data: examples.StatefulSet}}
	var unread []error
	if len(names) > 0 {
		files, unread = readManifests(names, cmd.InOrStdin())
	}
	injected, err := webhook.Inject(files, webhook.Options{Mode: webhook.Dev})
	if err = errors.Join(append(unread, err)...); err != nil {
		return err
	}
	cfg.Workloads = injected.Workloads
	cfg.Command = os.Args[0]
	cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	cfg.Console, cfg.Out = cmd.ErrOrStderr(), cmd.OutOrStdout()
	ctx := cmd.Context()
	if !signal.Ignored(syscall.SIGHUP) { // a closed terminal is a reason to stop cleanly, but for nohup
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
		defer stop()
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a reader of the log that goes away is none
	return dev.Run(ctx, cfg)
}

func restartPodCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "restart-pod POD",
		Short:   "Delete and recreate a pod of a running remora dev; returns when its volumes are mounted again",
		Example: "  remora dev restart-pod db-0 --dir ./.remora-dev",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("restart-pod needs the name of one pod, as `remora status` prints it: remora dev restart-pod db-0")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return restartPod(cmd.Context(), dir, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	return cmd
}

func restartPod(ctx context.Context, dir, pod string, out io.Writer) error {
	if err := dev.RestartPod(ctx, dir, pod); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "pod %s restarted\n", pod)
	return err
}
