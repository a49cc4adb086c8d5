package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/remora-storage/remora/e2e/bench/quorum"
)

// A worker is this binary again, doing one thing on a side: a process that can be killed, where bench itself would hang in a
// mount that nobody serves.
func worker(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("worker: %d arguments, 2 expected: it is started by bench itself", len(args))
	}
	switch args[0] {
	case "lay":
		return work(args[1], func(a layArgs) (any, error) { return nil, lay(a) })
	case "write":
		return work(args[1], func(a layArgs) (any, error) { return write(a) })
	case "small-files":
		return work(args[1], func(a smallFilesArgs) (any, error) { return runSmallFiles(a) })
	case "operation":
		return work(args[1], func(a operationArgs) (any, error) { return nil, doOperation(a) })
	case "fill":
		return work(args[1], func(a fillArgs) (any, error) { return fill(a) })
	case "list":
		return work(args[1], func(a listArgs) (any, error) { return runList(a) })
	case "append":
		return work(args[1], func(a appendArgs) (any, error) { return runAppend(a) })
	case "quorum":
		return work(args[1], func(a quorum.Args) (any, error) { return runQuorum(a) })
	case "touch":
		return work(args[1], func(a touchArgs) (any, error) { return touch(a) })
	case "change":
		return work(args[1], func(a changeArgs) (any, error) { return nil, change(a) })
	case "sync":
		return work(args[1], func(dirs []string) (any, error) { return nil, syncDirs(dirs) })
	}
	return fmt.Errorf("worker %q: unknown", args[0])
}

// work decodes the arguments and prints the answer, both as JSON.
func work[A any](args string, do func(A) (any, error)) error {
	var a A
	if err := json.Unmarshal([]byte(args), &a); err != nil {
		return err
	}
	answer, err := do(a)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}

// worker runs one and decodes its answer into got, unless that is nil.
func (b *bench) worker(ctx context.Context, name string, args, got any) error {
	return b.workerWithin(ctx, 3*time.Minute, name, args, got)
}

// longWorker may take twenty minutes.
func (b *bench) longWorker(ctx context.Context, name string, args, got any) error {
	return b.workerWithin(ctx, 20*time.Minute, name, args, got)
}

func (b *bench) workerWithin(ctx context.Context, limit time.Duration, name string, args, got any) error {
	encoded, err := json.Marshal(args)
	if err != nil {
		return err
	}
	out, err := b.run(ctx, limit, exec.Command("/proc/self/exe", "worker", name, string(encoded)))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if got == nil {
		return nil
	}
	return json.Unmarshal(out, got)
}
