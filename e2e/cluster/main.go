package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("a command is missing; one of up, down, load, node-up, node-kill, exec, env")
	}
	c, err := open()
	if err != nil {
		return err
	}
	command, args := args[0], args[1:]
	switch command {
	case "up":
		return c.up(ctx)
	case "down":
		return c.down(ctx)
	case "load":
		return c.load(ctx, args)
	case "env":
		fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", c.kubeconfig(), c.path("bin"))
		return nil
	}
	if len(args) == 0 {
		return fmt.Errorf("%s: a node is missing; one of %s", command, strings.Join(names(), ", "))
	}
	n, ok := nodeOf(args[0])
	switch {
	case !ok:
		return fmt.Errorf("%q is not a node; one of %s", args[0], strings.Join(names(), ", "))
	case command == "node-up":
		return c.nodeUp(ctx, n)
	case command == "node-kill":
		return c.nodeKill(ctx, n)
	case command == "exec":
		return c.exec(n, args[1:])
	}
	return fmt.Errorf("unknown command %q; one of up, down, load, node-up, node-kill, exec, env", command)
}
