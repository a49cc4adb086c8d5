package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// none takes no arguments.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, and there is %q: %s --help shows its flags", cmd.Name(), args[0], cmd.CommandPath())
	}
	return nil
}

// one takes the name of one thing.
func one(what, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return fmt.Errorf("%s needs the name of one %s, as `remora status` prints it: %s %s", cmd.Name(), what, cmd.CommandPath(), example)
		}
		return nil
	}
}

// oneDirectory takes the directory of a replica, or of something with replicas in it.
func oneDirectory(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return fmt.Errorf("%s needs one directory with replicas in it: %s ./.remora-dev", cmd.Name(), cmd.CommandPath())
	}
	return nil
}

// badFlag says where it is written what is allowed.
func badFlag(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w; %s --help shows what is allowed", err, cmd.CommandPath())
}
