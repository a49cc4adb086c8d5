// Command remora-cluster is the part of remora that talks to the API server: `remora webhook`, `remora node` and `remora hold` run it. It is a program of
// its own so that sidecars, of which a node has a hundred, do not carry what it needs (docs/decisions/0012).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	root := &cobra.Command{Use: "remora", Short: "What of remora runs in a cluster beside the pods", SilenceUsage: true, SilenceErrors: true}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(webhookCommand(), nodeCommand(), holdCommand())
	err := root.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "remora:", err)
		os.Exit(1)
	}
}
