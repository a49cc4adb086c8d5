package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/sidecar/replication/check"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

func dumpCommand() *cobra.Command {
	var cfg check.DumpConfig
	var replica string
	c := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print journal, records and metadata of replicas that nobody serves",
		Long: `Dump prints what is on a disk as text, a line for each superblock copy, journal frame, record or key. DIR is as in remora check.
A damaged journal is printed up to the damage, and a line says where it stops; the exit code is then 1. Names that users gave to files
are left out unless --names asks for them.`,
		Example: "  remora dump ./.remora-dev --journal\n  remora dump ./.remora-dev/nodes/node-0/default/disk-0 --meta --names",
		Args:    oneDirectory,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := resolve(args[0])
			if err != nil {
				return err
			}
			cfg.Dir = dir
			if replica != "" {
				if cfg.Replica, err = diskdir.ParseID(replica); err != nil {
					return fmt.Errorf("--replica: %w", err)
				}
			}
			if err := check.Dump(cmd.Context(), cfg, cmd.OutOrStdout()); err != nil {
				return fmt.Errorf("dump: %w", err)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&cfg.Superblock, "superblock", false, "print superblocks, as JSON")
	f.BoolVar(&cfg.Journal, "journal", false, "print journal frames")
	f.BoolVar(&cfg.Records, "records", false, "print the records in the journal")
	f.BoolVar(&cfg.Meta, "meta", false, "print the metadata as of its last flush (without a part: superblocks, journal and records)")
	f.StringVar(&replica, "replica", "", "print this replica alone, by its `ID`")
	f.BoolVar(&cfg.Names, "names", false, "print the names of files")
	f.StringVar(&cfg.KeyDir, "keys", "", "`DIR` of the key files, as for remora check")
	return c
}
