// Command build makes the programs of Kubernetes that its arguments name, if they are not in the cache yet, and prints their
// folder.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/remora-storage/remora/e2e/cluster/binaries"
)

func main() {
	var programs []binaries.Program
	for _, a := range os.Args[1:] {
		switch p := binaries.Program(a); p {
		case binaries.APIServer, binaries.Kube:
			programs = append(programs, p)
		default:
			fmt.Fprintf(os.Stderr, "build: %q is not a program; allowed: %s, %s\n", a, binaries.APIServer, binaries.Kube)
			os.Exit(2)
		}
	}
	dir, err := binaries.Dir(context.Background(), os.Stderr, programs...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}
