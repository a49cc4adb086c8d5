package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/dev"
)

func statusCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show pods, volumes and copies of a running remora dev",
		Example: `  remora status --dir ./.remora-dev
  remora status --dir ./.remora-dev -o json`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %s: unknown output format; allowed: table, json", output)
			}
			report, err := dev.Status(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if output == "table" {
				return dev.WriteTable(cmd.OutOrStdout(), report)
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(report)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "output `FORMAT`: table or json")
	return cmd
}
