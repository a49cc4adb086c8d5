package main

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWrongArguments: who writes a command wrongly reads what is wrong, what is wanted, and the command as it would be right.
func TestWrongArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"dev", "fail-node"}, "fail-node needs the name of one node, as `remora status` prints it: remora dev fail-node node-0"},
		{[]string{"dev", "fail-node", "a", "b"}, "fail-node needs the name of one node, as `remora status` prints it: remora dev fail-node node-0"},
		{[]string{"dev", "fail-node", "a", "--replace-after", "-5s"}, "--replace-after -5s: must be positive, for example 30s, or 0 for at once"},
		{[]string{"dev", "fail-node", "a", "--keep-disks"}, "unknown flag: --keep-disks; remora dev fail-node --help shows what is allowed"},
		{[]string{"dev", "return-node"}, "return-node needs the name of one node, as `remora status` prints it: remora dev return-node node-2"},
		{[]string{"dev", "accept-loss", ""}, "accept-loss needs the name of one volume, as `remora status` prints it: remora dev accept-loss data-db-0"},
		{[]string{"dev", "replicas", "data-db-0"}, "replicas needs the name of one volume, as `remora status` prints it, and how many copies it is to have (1, 3 or 5): remora dev replicas data-db-0 3"},
		{[]string{"dev", "replicas", "data-db-0", "x"}, `replicas "x": allowed: 1, 3, 5`},
		{[]string{"verify"}, "verify needs the name of one volume, as `remora status` prints it: remora verify data-db-0"},
		{[]string{"verify", "data-db-0", "-o", "yaml"}, "-o yaml: unknown output format; allowed: text, json"},
		{[]string{"status", "db-0"}, `status takes no arguments, and there is "db-0": remora status --help shows its flags`},
		{[]string{"check"}, "check needs one directory with replicas in it: remora check ./.remora-dev"},
	} {
		root := rootCommand()
		root.SetArgs(c.args)
		root.SetOut(io.Discard)
		require.EqualError(t, root.ExecuteContext(t.Context()), c.want, "%v", c.args)
	}
}
