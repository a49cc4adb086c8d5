package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/dev"
)

func failNodeCommand() *cobra.Command {
	var dir string
	var after time.Duration
	var keep bool
	cmd := &cobra.Command{
		Use:   "fail-node NODE",
		Short: "Lose a node of a running remora dev: everything on it dies, and its pods start on an empty one",
		Long: `Lose a node of a running remora dev.

Everything that runs on the node is killed at once, its mounts are aborted (programs that use them get errors), and its disks are gone.
An empty node takes its place, and the node's pods start there: a volume of class replicated with everything that was acknowledged, a
volume of one copy not at all. Lost replicas are replaced on the new node; remora status shows how far that is.`,
		Example: `  remora dev fail-node node-0
  remora dev fail-node node-1 --replace-after 1m
  remora dev fail-node node-2 --keep-disk && remora dev return-node node-2`,
		Args: one("node", "node-0"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if after < 0 {
				return fmt.Errorf("--replace-after %v: must be positive, for example 30s, or 0 for at once", after)
			}
			f, err := dev.FailNode(cmd.Context(), dir, args[0], after, keep)
			if err != nil {
				return err
			}
			return printFailure(cmd.OutOrStdout(), f, dir)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	cmd.Flags().DurationVar(&after, "replace-after", 0, "replace lost replicas of pods that ran elsewhere only after `DURATION`")
	cmd.Flags().BoolVar(&keep, "keep-disk", false, "keep the node's disks, so that return-node can bring them back")
	return cmd
}

func printFailure(out io.Writer, f dev.Failure, dir string) error {
	fmt.Fprintf(out, "node %s failed, node %s takes its place\n", f.Node, f.New)
	if f.Kept != "" {
		fmt.Fprintf(out, "its disks are kept in %s: remora dev return-node %s --dir %s\n", f.Kept, f.Node, dir)
	}
	for _, p := range f.Pods {
		if p.Mounted > 0 {
			fmt.Fprintf(out, "pod %s is mounted again, %v after its start there\n", p.Name, p.Mounted.Round(time.Millisecond))
		}
	}
	var errs []error
	for _, what := range f.Found {
		errs = append(errs, errors.New(what))
	}
	return errors.Join(errs...)
}

func returnNodeCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "return-node NODE",
		Short: "Bring back a node that fail-node --keep-disk took away, with its old disks",
		Args:  one("node", "node-2"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := dev.ReturnNode(cmd.Context(), dir, args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "node %s is back\n", args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	return cmd
}

func acceptLossCommand() *cobra.Command {
	var dir string
	var accepted bool
	cmd := &cobra.Command{
		Use:   "accept-loss VOLUME --accept-data-loss",
		Short: "Let a volume that has lost the majority of its disks go on with what is left",
		Long: `Let a volume that has lost the majority of its disks (state MajorityLost) go on with what one replica has. So does
one that has had no leader for 15 s although all disks that its Volume object names answer: who was lost voted already.

Whoever has less than a majority cannot know whether it has everything that was acknowledged: the disks that are gone may have had more.
So this is never done by itself. Of the replicas that are left, all must answer, and the one whose log reaches furthest goes on alone; the
others are made anew from it.`,
		Example: `  remora dev accept-loss data-db-0 --accept-data-loss`,
		Args:    one("volume", "data-db-0"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !accepted {
				return fmt.Errorf("volume %s: acknowledged writes may be lost for good, so this needs --accept-data-loss; if a lost disk can come back, bring it back instead", args[0])
			}
			l, err := dev.AcceptLoss(cmd.Context(), dir, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "volume %s goes on with replica %s on %s, at log position %d\n", l.Volume, l.Survivor, l.Node, l.Applied)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	cmd.Flags().BoolVar(&accepted, "accept-data-loss", false, "say that what the lost disks had, and no other, may be lost")
	return cmd
}

func replicasCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "replicas VOLUME N",
		Short: "Give a volume another number of copies, while it is in use",
		Long: `Give a volume another number of copies, while it is in use.

More: replicas are made on other nodes (empty ones are added where there are too few), filled, and count when they have everything: see
remora status. A volume of one copy pauses once, while its sidecar starts again. Fewer: the copy where the pod runs stays, and others that are
in sync; the directories of those that go stay on their nodes. The number that the volume's class names is for new volumes only.`,
		Example: `  remora dev replicas data-db-0 3`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("replicas needs the name of one volume, as `remora status` prints it, and how many copies it is to have (1, 3 or 5): remora dev replicas data-db-0 3")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return fmt.Errorf("replicas %q: allowed: 1, 3, 5", args[1])
			}
			r, err := dev.Replicas(cmd.Context(), dir, args[0], n)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "volume %s gets %d replicas, and had %d: on %s; remora status shows how far it is\n", r.Volume, r.Replicas, r.Before, strings.Join(r.Nodes, ", "))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "the `DIR` of the running remora dev")
	return cmd
}
