package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// module is a program of two packages that needs nothing but a little of the standard library.
var module = map[string]string{
	"go.mod":       "module example.com/hello\n\ngo 1.21\n",
	"part/part.go": "package part\n\nfunc Double(n int) int { return 2 * n }\n",
	"main.go": `package main

import (
	"os"
	"strconv"

	"example.com/hello/part"
)

func main() { os.Stdout.WriteString(strconv.Itoa(part.Double(21)) + "\n") }
`,
}

// TestGoBuild builds a module on the mount, with the build cache there too, and runs the program, which the kernel maps into memory.
func TestGoBuild(t *testing.T) {
	t.Parallel()
	goTool, err := exec.LookPath("go")
	require.NoError(t, err)
	i := startOne(t)
	dir, aside := i.mount("db-0"), tempDir(t)
	for name, text := range module {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(aside, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(aside, name), []byte(text), 0o644))
	}
	i.program("", nil, "cp", "-r", aside, filepath.Join(dir, "mod")).run(time.Minute)
	env := []string{"GOFLAGS=-mod=mod -buildvcs=false", "GOPROXY=off", "GOTOOLCHAIN=local", "GOWORK=off", "CGO_ENABLED=0",
		"GOCACHE=" + filepath.Join(dir, "cache"), "GOPATH=" + filepath.Join(dir, "gopath"), "GOTMPDIR=" + dir}
	build := func() *child {
		return i.program("", env, goTool, "build", "-C", filepath.Join(dir, "mod"), "-o", filepath.Join(dir, "hello"), ".")
	}
	began := time.Now()
	first := build()
	first.start()
	time.Sleep(time.Second) // of the build, before the death of its storage
	i.killSidecar("db-0")
	first.ok(5 * time.Minute)
	t.Logf("go build with an empty cache: %v", time.Since(began).Round(time.Millisecond))
	run := func() {
		t.Helper()
		require.Equal(t, "42\n", i.program("", nil, filepath.Join(dir, "hello")).run(time.Minute))
	}
	run()
	i.stop()
	i.again()
	run()
	build().run(time.Minute) // the cache is good
	run()
}
