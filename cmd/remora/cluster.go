package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// clusterProgram is where `remora webhook`, `remora node` and `remora hold` are: beside this program.
const clusterProgram = "remora-cluster"

func webhookCommand() *cobra.Command {
	return elsewhere("webhook", "Run the admission webhook: it injects sidecars; the Deployment runs this, people do not")
}

func nodeCommand() *cobra.Command {
	return elsewhere("node", "Run the node plugin: makes the mounts of a node's pods; the DaemonSet runs this, people do not")
}

func holdCommand() *cobra.Command {
	return elsewhere("hold", "Make and hold the mounts of one pod, in privileged mode; remora-init runs this, people do not")
}

// elsewhere is a command of the other program: this process becomes it.
func elsewhere(name, short string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, DisableFlagParsing: true, // the flags are the other program's, --help among them
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := findCluster()
			if err != nil {
				return err
			}
			return fmt.Errorf("%s: %w", path, syscall.Exec(path, append([]string{"remora", name}, args...), os.Environ()))
		},
	}
}

func findCluster() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), clusterProgram)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath(clusterProgram)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("the program %s is neither beside %s nor in PATH; `make build` makes both, and they belong together", clusterProgram, self)
	}
	return path, err
}
