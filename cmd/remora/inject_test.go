package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func runInject(in string, args ...string) (out, report string, err error) {
	c := injectCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	var o, r bytes.Buffer
	c.SetIn(strings.NewReader(in))
	c.SetOut(&o)
	c.SetErr(&r)
	c.SetArgs(args)
	err = c.Execute()
	return o.String(), r.String(), err
}

func TestInjectFromStandardInput(t *testing.T) {
	in, err := os.ReadFile("../../webhook/testdata/statefulset/in.yaml")
	require.NoError(t, err)
	want, err := os.ReadFile("../../webhook/testdata/statefulset/node.yaml")
	require.NoError(t, err)
	out, report, err := runInject(string(in), "-f", "-")
	require.NoError(t, err)
	require.Empty(t, report)
	require.Equal(t, string(want), out)
	out, _, err = runInject(string(in), "-f", "-", "--mode=dev", "--image=me/it:2", "--otlp-endpoint=http://o:4318")
	require.NoError(t, err)
	require.Contains(t, out, "image: me/it:2\n")
	require.Contains(t, out, "value: http://o:4318\n")
}

func TestInjectReportsEverything(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	require.NoError(t, os.WriteFile(bad, []byte("a: [\n---\n- 1\n"), 0o600))
	out, report, err := runInject("a: 1\n", "-f", "-", "-f", bad, "-f", "/no/such", "-f", bad, "-f", t.TempDir())
	require.EqualError(t, err, "nothing was injected: 5 problems")
	require.Empty(t, out)
	lines := strings.Split(strings.TrimSpace(report), "\n")
	require.Len(t, lines, 5)
	require.Contains(t, lines[0], "/no/such: no such file or directory")
	require.Contains(t, lines[1], "is given twice")
	require.Contains(t, lines[2], "is a directory")
	require.Contains(t, lines[3], "bad.yaml: document 1 (line 1): manifest: is not YAML: line")
	require.Contains(t, lines[4], "bad.yaml: document 2 (line 3): manifest: is a list")
}

func TestInjectFlags(t *testing.T) {
	_, _, err := runInject("")
	require.ErrorContains(t, err, "write -f FILE")
	_, _, err = runInject("", "-f", "-", "--mode=nodes")
	require.EqualError(t, err, `--mode: mode "nodes"; allowed: node, privileged, dev`)
}
