package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// A worker is this binary again, doing one thing on a side: a process that can be killed, where bench itself would hang in a
// mount that nobody serves.
func worker(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("worker: %d arguments, 2 expected: it is started by bench itself", len(args))
	}
	switch args[0] {
	case "lay":
		var a layArgs
		if err := json.Unmarshal([]byte(args[1]), &a); err != nil {
			return err
		}
		return lay(a)
	case "small-files":
		var a smallFilesArgs
		if err := json.Unmarshal([]byte(args[1]), &a); err != nil {
			return err
		}
		got, err := runSmallFiles(a)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(got)
	case "sync":
		var dirs []string
		if err := json.Unmarshal([]byte(args[1]), &dirs); err != nil {
			return err
		}
		return syncDirs(dirs)
	}
	return fmt.Errorf("worker %q: unknown", args[0])
}

// worker runs one and decodes its answer into got, unless that is nil.
func (b *bench) worker(ctx context.Context, name string, args, got any) error {
	encoded, err := json.Marshal(args)
	if err != nil {
		return err
	}
	out, err := b.run(ctx, 3*time.Minute, exec.Command("/proc/self/exe", "worker", name, string(encoded)))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if got == nil {
		return nil
	}
	return json.Unmarshal(out, got)
}
