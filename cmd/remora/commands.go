package main

import "github.com/spf13/cobra"

// commands lists the sub-commands in the order in which a user meets them.
func commands() []*cobra.Command {
	return []*cobra.Command{
		injectCommand(),
		devCommand(),
		statusCommand(),
		verifyCommand(),
		webhookCommand(),
		sidecarCommand(),
		nodeCommand(),
		holdCommand(),
		checkCommand(),
		dumpCommand(),
	}
}
