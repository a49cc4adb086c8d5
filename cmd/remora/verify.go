package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/dev"
)

var errDiffer = errors.New("the replicas are not the same, or not all have answered: see above, and docs/replication.md")

func verifyCommand() *cobra.Command {
	var dir, output string
	var scrub bool
	cmd := &cobra.Command{
		Use:   "verify VOLUME",
		Short: "Compare the replicas of a volume of a running remora dev",
		Long: `Compare the replicas of a volume of a running remora dev.

Every replica computes a digest of all metadata and of the seals of all content, as they are at one position of the volume's log. With
--scrub it also reads all of its content from its disk, compares it with the seals, and heals from another replica what does not fit. The
volume is in use meanwhile. The exit code is 1 if the digests differ, or a replica does not answer or has content that nobody can heal.
Replicas that nobody serves are compared by remora check.`,
		Example: "  remora verify data-db-0 --dir ./.remora-dev\n  remora verify data-db-0 --scrub",
		Args:    one("volume", "data-db-0"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: unknown output format; allowed: text, json", output)
			}
			v, err := dev.Verify(cmd.Context(), dir, args[0], scrub)
			if err != nil {
				return fmt.Errorf("verify %s: %w", args[0], err)
			}
			if err := writeVerdict(cmd.OutOrStdout(), &v, output); err != nil {
				return err
			}
			if !v.Same {
				return errDiffer
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "output `FORMAT`: text or json")
	cmd.Flags().BoolVar(&scrub, "scrub", false, "also read all content of all replicas and heal what is bad")
	return cmd
}

func writeVerdict(w io.Writer, v *dev.Verdict, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	for _, r := range v.Replicas {
		fmt.Fprintf(w, "replica %s index %d digest %s", r.Replica, v.Index, orNone(r.Digest))
		if s := r.Scrubbed; s != nil {
			fmt.Fprintf(w, " scrubbed %d MiB, %d bad blocks, %d healed", s.Bytes>>20, s.Bad, s.Healed)
		}
		if r.Err != "" {
			fmt.Fprintf(w, " error: %s", r.Err)
		}
		fmt.Fprintln(w)
	}
	_, err := fmt.Fprintf(w, "%d replicas: %s\n", len(v.Replicas), verdict(v))
	return err
}

// verdict tells replicas that differ from those that have not answered: one that is just being replaced is nothing to be afraid of.
func verdict(v *dev.Verdict) string {
	if v.Same {
		return "the replicas are the same"
	}
	answers, digests := 0, map[string]bool{}
	for _, r := range v.Replicas {
		if r.Err == "" && r.Digest != "" {
			answers++
			digests[r.Digest] = true
		}
	}
	switch {
	case len(digests) > 1:
		return "NOT the same"
	case answers > 1:
		return fmt.Sprintf("only %d have answered, and those are the same", answers)
	}
	return fmt.Sprintf("only %d answered: there is nothing to compare", answers)
}

func orNone(digest string) string {
	if digest == "" {
		return "none"
	}
	return digest
}
