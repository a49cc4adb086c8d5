package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sqliteCommits inserts n rows, a transaction each, into a new database in WAL mode that syncs at every commit.
func sqliteCommits(n int) func(context.Context, *bench, side) (sample, error) {
	var script strings.Builder
	script.WriteString(".bail on\nPRAGMA journal_mode=WAL;\nPRAGMA synchronous=FULL;\nCREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT);\n")
	for i := range n {
		fmt.Fprintf(&script, "INSERT INTO t(v) VALUES('row %08d of the commit test, a hundred bytes of text, more or less, as rows are');\n", i)
	}
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		dir := filepath.Join(s.dir, "sqlite")
		if err := b.shell(ctx, "rm -rf %s && mkdir %s", dir, dir); err != nil {
			return nil, err
		}
		cmd := exec.Command("sqlite3", filepath.Join(dir, "test.db"))
		cmd.Stdin = strings.NewReader(script.String())
		before, start := b.settled(ctx, s), time.Now()
		if _, err := b.run(ctx, 2*time.Minute, cmd); err != nil {
			return nil, err
		}
		got := sample{"tps": float64(n) / time.Since(start).Seconds(), operationsDone: float64(n)}
		b.settled(ctx, s).addTo(got, before, int64(n), int64(script.Len()))
		return got, nil
	}
}

// shell runs a command line; its arguments are quoted.
func (b *bench) shell(ctx context.Context, format string, args ...any) error {
	for i, arg := range args {
		args[i] = "'" + strings.ReplaceAll(fmt.Sprint(arg), "'", `'\''`) + "'"
	}
	_, err := b.run(ctx, time.Minute, exec.Command("sh", "-ec", fmt.Sprintf(format, args...)))
	return err
}
