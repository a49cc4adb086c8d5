package main

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/node"
	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/telemetry"
)

// nodeCommand is what the DaemonSet remora-node runs.
func nodeCommand() *cobra.Command {
	var cfg node.Config
	var kubeconfig, namespace, logFormat string
	c := &cobra.Command{
		Use:   "node",
		Short: "Run the node plugin: makes the mounts of a node's pods; the DaemonSet runs this, people do not",
		Long: "Run the node plugin, a CSI driver of inline volumes (remora.dev): it makes the FUSE mounts of the pods of one node, keeps their\n" +
			"descriptors while sidecars come and go, and hands out disk directories. It needs root, the host's mounts (Bidirectional) at\n" +
			"--kubelet-dir, and what docs/node.md says. Mounts stay when it ends.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := telemetry.ParseLogFormat(logFormat)
			if err != nil {
				return err
			}
			cfg.Logger = telemetry.Logger(os.Stderr, format, slog.LevelInfo)
			cfg.Version = version()
			client, err := kube.New(kubeconfig, "remora-node/"+cfg.Version)
			if err != nil {
				return err
			}
			cfg.API, cfg.Keys = client, kube.Keys{Client: client, Namespace: namespace}
			return node.Run(cmd.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Node, "node", os.Getenv("NODE_NAME"), "this node's name; the default is NODE_NAME of the environment")
	f.StringVar(&cfg.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's --root-dir, at the same path as on the host")
	f.StringVar(&cfg.Root, "root", "/var/lib/remora", "where the disk directories are: a folder for each namespace, on the node's fast disk")
	f.StringVar(&cfg.Listen, "listen", ":9441", "address of /healthz, /readyz and /metrics: HOST:PORT; empty: none")
	f.DurationVar(&cfg.HangBudget, "hang-budget", 0, "how long programs wait on a mount whose sidecar is gone before they get errors (default 10m)")
	f.DurationVar(&cfg.EndBudget, "end-budget", 0, "the same, in a pod that is being deleted (default 10s)")
	f.DurationVar(&cfg.Linger, "linger", 0, "how long a plugin that is told to stop waits for sidecars that are just restarting (default 15s)")
	f.DurationVar(&cfg.Orders, "orders", 0, "how often orders to delete replicas are looked for: Volumes with the label remora.dev/delete-replica (default 30s)")
	f.StringVar(&namespace, "namespace", "remora-system", "where the Secrets with the volumes' keys are")
	f.StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as a pod does")
	f.StringVar(&logFormat, "log-format", "json", "text or json")
	return c
}

// version is the module's, as the build stamped it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
