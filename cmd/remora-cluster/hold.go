package main

import (
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/node"
	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/telemetry"
)

// holdDir is what `remora hold` knows, in its container's own file system: it outlives the process, and not the container.
const holdDir = "/remora/hold"

// holdCommand is what remora-init runs beside the sidecar in privileged mode, with the sidecar's arguments: those that are not its own it
// leaves alone.
func holdCommand() *cobra.Command {
	cfg := node.Config{KubeletDir: holdDir}
	var h node.Held
	var kubeconfig, logFormat string
	c := &cobra.Command{
		Use:   "hold",
		Short: "Make and hold the mounts of one pod, in privileged mode; remora-init runs this, people do not",
		Long: "Do the node plugin's work for the one pod whose privileged sidecar this is: make its FUSE mounts below --root, keep their descriptors while\n" +
			"the sidecar comes and goes, claim its Volume objects, and give the sidecar its disk directories and keys. When it is told to end, nothing of\n" +
			"it stays mounted. docs/privileged.md says what that needs, and what it does not give. Its arguments are the sidecar's; others than these\n" +
			"are ignored.",
		Args:               cobra.ArbitraryArgs,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := telemetry.ParseLogFormat(logFormat)
			if err != nil {
				return err
			}
			if cfg.Root == "" || h.Disks == "" {
				return errors.New("--root and --disks are needed; the injector sets them")
			}
			cfg.Logger = telemetry.Logger(os.Stderr, format, slog.LevelInfo)
			cfg.Version, cfg.Node = version(), os.Getenv("NODE_NAME")
			h.Namespace, h.Pod, h.UID = os.Getenv("POD_NAMESPACE"), os.Getenv("POD_NAME"), os.Getenv("POD_UID")
			client, err := kube.New(kubeconfig, "remora-hold/"+cfg.Version)
			if err != nil {
				return err
			}
			cfg.API, cfg.Keys = client, node.FileKeys{Root: cfg.Root}
			return node.Hold(cmd.Context(), cfg, h)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Root, "root", "", "where this container sees the node's folder of disk directories, with Bidirectional propagation")
	f.StringVar(&h.Disks, "disks", "", "where the sidecar finds its disk directories and the socket")
	f.DurationVar(&cfg.HangBudget, "hang-budget", 0, "how long programs wait on a mount whose sidecar is gone before they get errors (default 10m)")
	f.DurationVar(&cfg.EndBudget, "end-budget", 0, "the same, in a pod that is being deleted (default 10s)")
	f.StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as a pod does")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	return c
}
