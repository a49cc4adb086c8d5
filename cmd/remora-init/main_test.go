package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// run guards a shell script whose $1 is a file in which each life leaves a line.
func run(t *testing.T, script string, during func(lives func() int)) (status, lives int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lives")
	count := func() int {
		text, _ := os.ReadFile(file)
		return strings.Count(string(text), "\n")
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM)
	defer signal.Stop(signals)
	result := make(chan int, 1)
	go func() {
		result <- guard([]string{"/bin/sh", "-c", "echo $$ >>$1; n=$(wc -l <$1); " + script, "sh", file}, signals)
	}()
	if during != nil {
		during(count)
	}
	select {
	case status = <-result:
	case <-time.After(time.Minute):
		require.FailNow(t, "guard does not end")
	}
	return status, count()
}

// TestGuard: the killed and the panicked come back; who ends by itself, or is told to, does not.
func TestGuard(t *testing.T) {
	status, lives := run(t, "[ $n = 1 ] && kill -9 $$; [ $n = 2 ] && exit 2; exit 7", nil)
	require.Equal(t, 7, status)
	require.Equal(t, 3, lives)

	status, lives = run(t, "exit 0", nil)
	require.Equal(t, 0, status)
	require.Equal(t, 1, lives)

	status, lives = run(t, "while :; do sleep 0.05; done", func(lives func() int) {
		require.Eventually(t, func() bool { return lives() == 1 }, time.Minute, time.Millisecond)
		require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	})
	require.Equal(t, 128+int(syscall.SIGTERM), status)
	require.Equal(t, 1, lives)
}

// TestGuardGivesUp: one that dies whenever it is started is left to kubelet, which shows it.
func TestGuardGivesUp(t *testing.T) {
	status, lives := run(t, "kill -9 $$", nil)
	require.Equal(t, 128+int(syscall.SIGKILL), status)
	require.Equal(t, tooOften, lives)
}
