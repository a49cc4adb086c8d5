package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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
  remora dev -f examples/witnessed.yaml       # two copies and a witness, on three nodes
  remora status --dir /var/tmp/dev
  remora dev restart-pod db-0 --dir /var/tmp/dev
  remora dev upgrade --dir /var/tmp/dev       # after a new build: no program notices more than a pause`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDev(cmd, cfg, append(files, args...))
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&files, "file", "f", nil, "manifest `FILE`, - for stdin; may be repeated (default: an example StatefulSet)")
	f.StringVar(&cfg.Dir, "dir", defaultDir, "keep data, sockets, logs and mounts in `DIR`; made if missing")
	f.StringVar(&cfg.ReadyFile, "ready-file", "", "write `PATH` when all volumes are mounted")
	f.IntVar(&cfg.Nodes, "nodes", 0, "number `N` of simulated nodes (default: one per pod, and as many as a volume has copies)")
	f.StringVar(&cfg.OTLP, "otlp-endpoint", "", "send traces to `URL`: http://HOST:4318, grpc://HOST:4317 or file:PATH (default: DIR/traces/<pod>.jsonl)")
	f.DurationVar(&cfg.HangBudget, "hang-budget", 30*time.Second, "abort a volume that no sidecar has served for `DURATION`, so that programs get errors instead of waiting; 0: never")
	f.StringArrayVar(&cfg.SidecarArgs, "sidecar-arg", nil, "one more argument for every sidecar")
	_ = f.MarkHidden("sidecar-arg") // for tests; it fails only for a flag that is not there
	cmd.AddCommand(restartPodCommand(), upgradeCommand(), failNodeCommand(), returnNodeCommand(), acceptLossCommand(), replicasCommand())
	return cmd
}

func runDev(cmd *cobra.Command, cfg dev.Config, names []string) error {
	load := manifests(names, cmd.InOrStdin())
	var err error
	if cfg.Workloads, err = load(); err != nil {
		return err
	}
	cfg.Reload = load
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

// manifests returns what reads and injects the named manifests, as often as it is called. Standard input is read once.
func manifests(names []string, in io.Reader) func() ([]webhook.Workload, error) {
	var stdin bytes.Buffer
	in = io.TeeReader(in, &stdin)
	return func() ([]webhook.Workload, error) {
		files := []webhook.File{{Name: "the example", Data: examples.StatefulSet}}
		var unread []error
		if len(names) > 0 {
			files, unread = readManifests(names, in)
			in = bytes.NewReader(stdin.Bytes())
		}
		injected, err := webhook.Inject(files, webhook.Options{Mode: webhook.Dev})
		if err = errors.Join(append(unread, err)...); err != nil {
			return nil, err
		}
		return injected.Workloads, nil
	}
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

func upgradeCommand() *cobra.Command {
	var dir, binary string
	cmd := &cobra.Command{
		Use:   "upgrade [POD]",
		Short: "Let a new binary serve the volumes of a running remora dev; programs notice a pause",
		Long: `Let a new binary serve the volumes of a running remora dev, one pod after another, or those of one POD.

Each sidecar answers what it has begun and ends; the new binary takes its mounts over, with all open files, and programs notice a
pause, which is printed. If the new binary does not serve within the hang budget, or dies three times, the old one is put back. The
manifests are read again, too: a larger size takes effect without a restart of the pod.`,
		Example: `  make build && sudo bin/remora dev upgrade
  remora dev upgrade db-0 --dir /var/tmp/dev --binary ./remora.new`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("upgrade takes the name of one pod, as `remora status` prints it, or none for all: remora dev upgrade db-0")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if binary != "" {
				abs, err := filepath.Abs(binary)
				if err != nil {
					return fmt.Errorf("--binary %s: %w", binary, err)
				}
				binary = abs
			}
			return dev.Upgrade(cmd.Context(), dir, strings.Join(args, ""), binary, func(pod string, pause time.Duration) {
				fmt.Fprintf(cmd.OutOrStdout(), "pod %s upgraded: a pause of %v\n", pod, pause.Round(time.Millisecond))
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	cmd.Flags().StringVar(&binary, "binary", "", "`PATH` of the new binary (default: the file that now has the name of the running one)")
	return cmd
}
