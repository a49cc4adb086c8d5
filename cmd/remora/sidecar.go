package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/sidecar"
	"github.com/remora-storage/remora/sidecar/heap"
	"github.com/remora-storage/remora/telemetry"
	"github.com/remora-storage/remora/webhook/spec"
)

// sidecarCommand is what injected pods run.
func sidecarCommand() *cobra.Command {
	var cfg sidecar.Config
	var volumes []string
	var logFormat string
	c := &cobra.Command{
		Use:   "sidecar",
		Short: "Serve a pod's volumes; injected pods run this, people do not",
		Long: "Serve the volumes of a pod. The arguments and the environment (POD_NAME, POD_NAMESPACE, POD_UID, NODE_NAME,\n" +
			"OTEL_EXPORTER_OTLP_ENDPOINT) are what `remora inject` puts into the pod.",
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := telemetry.ParseLogFormat(logFormat)
			if err != nil {
				return err
			}
			cfg.Logger = telemetry.Logger(os.Stderr, format, slog.LevelInfo)
			for _, v := range volumes {
				parsed, err := spec.ParseVolumeFlag(v)
				if err != nil {
					return err
				}
				cfg.Volumes = append(cfg.Volumes, parsed)
			}
			cfg.Pod, cfg.Namespace = os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
			cfg.PodUID, cfg.Node = os.Getenv("POD_UID"), os.Getenv("NODE_NAME")
			cfg.OTLP = os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")
			if os.Getenv("GOGC") == "" {
				defer heap.Keep()()
			}
			return sidecar.Run(cmd.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Mode, "mode", "dev", "who makes the mounts: dev, node (the node plugin) or privileged (remora hold)")
	f.StringArrayVar(&volumes, "volume", nil, "a volume: name=NAME,size=BYTES,class=CLASS,replicas=N,sealing=on|off,trace=TRACE (repeatable)")
	f.Uint32Var(&cfg.FSGroup, "fs-group", 0, "group that the root of every volume belongs to, and what is made in it: the pod's fsGroup; 0: none")
	f.StringVar(&cfg.Disks, "disks", "", "directory of the tenant's disk directories on this node")
	f.StringVar(&cfg.Authority, "authority", "", "where the Volume objects are: file:DIR, or unix:PATH of the node plugin's socket in node mode")
	f.StringVar(&cfg.Keys, "keys", "", "where the volumes' keys are: file:DIR, or unix:PATH of the node plugin's socket in node mode")
	f.StringVar(&cfg.Identity, "identity", "", "the certificate for sidecars of other nodes: file:DIR; without it, only volumes of one copy are served")
	f.BoolVar(&cfg.Keeper, "keeper", false, "serve the replicas of other pods' volumes that belong on this node, and nothing else")
	f.Int64Var(&cfg.WitnessBytes, "witness-bytes", 0, "bytes of records that a witness keeps for a replica that is away, before the volume goes on with one copy; 0: 256 MiB")
	f.StringVar(&cfg.Holder, "holder", "", "who holds the mounts: unix:PATH")
	f.StringVar(&cfg.Listen, "listen", "", "address of /readyz, /status and /metrics: unix:PATH or HOST:PORT")
	f.BoolVar(&cfg.NoResend, "no-resend", false, "behave as on a kernel without FUSE_NOTIFY_RESEND (before 6.9)")
	_ = f.MarkHidden("no-resend") // for tests; it fails only for a flag that is not there
	f.String("root", "", "where this container sees the node's disk directories in privileged mode; for remora hold, which gets the same arguments")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	return c
}
