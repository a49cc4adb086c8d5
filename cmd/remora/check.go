package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/sidecar/replication/check"
)

// errFindings is said when the findings were printed.
var errFindings = errors.New("something is wrong: see the findings above, and docs/check.md for what to do")

func checkCommand() *cobra.Command {
	var cfg check.Config
	var output string
	var verbose bool
	c := &cobra.Command{
		Use:   "check DIR",
		Short: "Verify the replicas in a directory that nobody serves",
		Long: `Check reads every replica below DIR and compares everything in it with its checksums and with everything else: superblocks, journal,
metadata, references, content. DIR is a replica's directory, a disk directory (disk-N), a tenant's directory on a node, a node's
directory, or that of a stopped remora dev. Nothing is changed. A line is printed for each finding; the exit code is 1 if there is one.`,
		Example: "  remora check ./.remora-dev\n  remora check /var/lib/remora/default/disk-0 --keys /etc/remora/keys",
		Args:    oneDirectory,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: unknown output format; allowed: text, json", output)
			}
			dir, err := resolve(args[0])
			if err != nil {
				return err
			}
			cfg.Dir = dir
			report, err := check.Run(cmd.Context(), cfg)
			if err != nil {
				return fmt.Errorf("check: %w", err)
			}
			if err := writeReport(cmd.OutOrStdout(), &report, output, verbose); err != nil {
				return err
			}
			if report.Bad() {
				return errFindings
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&output, "output", "o", "text", "output `FORMAT`: text or json")
	f.StringVar(&cfg.KeyDir, "keys", "", "`DIR` of the key files, DIR/<tenant>/<volume>.key or DIR/<volume>.key (default: the keys of the remora dev directory)")
	f.IntVar(&cfg.MaxFindings, "max", 0, "findings to print of each replica; the others are counted (default 1000)")
	f.BoolVarP(&verbose, "verbose", "v", false, "also print what is worth knowing and as it should be")
	return c
}

// resolve makes a path absolute and free of links: where a replica is says which disk it belongs to.
func resolve(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	return abs, err
}

func writeReport(w io.Writer, r *check.Report, output string, verbose bool) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, f := range r.Findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
	}
	if verbose {
		for _, n := range r.Notes {
			fmt.Fprintln(w, "note:", n)
		}
		for _, p := range r.Replicas {
			fmt.Fprintf(w, "note: %s: volume %s, index %d (checkpoint %d), %d inodes, %d blobs, %d blocks\n",
				p.Path, p.Volume, p.Index, p.Checkpoint, p.Inodes, p.Blobs, p.Blocks)
		}
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}
