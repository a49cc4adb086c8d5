package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const events = `{"Action":"run","Package":"a","Test":"TestMount"}
{"Action":"output","Package":"a","Test":"TestMount","Output":"=== RUN   TestMount\n"}
{"Action":"output","Package":"a","Test":"TestMount","Output":"    a_test.go:3: needs root: run sudo make test\n"}
{"Action":"output","Package":"a","Test":"TestMount","Output":"--- SKIP: TestMount (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestMount","Elapsed":0}
{"Action":"pass","Package":"a","Test":"TestOther","Elapsed":0.1}
{"Action":"skip","Package":"empty","Elapsed":0}
`

func TestRead(t *testing.T) {
	sum, err := read(strings.NewReader(events))
	require.NoError(t, err)
	require.Equal(t, 2, sum.ran)
	require.Equal(t, []skip{{"a", "TestMount", "a_test.go:3: needs root: run sudo make test"}}, sum.skips)
}

func TestSkipFailsOnlyInCI(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.json")
	require.NoError(t, os.WriteFile(file, []byte(events), 0o644))
	require.NoError(t, run(file, false))
	require.ErrorContains(t, run(file, true), "1 tests were skipped")

	require.NoError(t, os.WriteFile(file, nil, 0o644))
	require.ErrorContains(t, run(file, false), "no test ran")
}
