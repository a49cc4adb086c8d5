// Command tools is what the pods of e2e/kube run.
package main

import (
	"fmt"
	"os"
)

func main() {
	commands := map[string]func([]string) error{"writer": writer, "wait": wait}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: tools writer DIR [-records N] | wait")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}
