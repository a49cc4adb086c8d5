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
		result <- guard([]*program{{args: []string{"/bin/sh", "-c", "echo $$ >>$1; n=$(wc -l <$1); " + script, "sh", file}}}, signals)
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

// TestGuardPair: of two programs each is started again alone; the end of one is the end of the other, and who serves ends before who holds.
func TestGuardPair(t *testing.T) {
	pair := programs([]string{"/bin/remora", "sidecar", "--mode=privileged", "--root=/r"})
	require.Len(t, pair, 2)
	require.Equal(t, []string{"/bin/remora", "hold", "--mode=privileged", "--root=/r"}, pair[0].args)
	require.Nil(t, pair[0].as)
	require.Equal(t, []string{"/bin/remora", "sidecar", "--mode=privileged", "--root=/r"}, pair[1].args)
	require.EqualValues(t, nobody, pair[1].as.Uid)
	require.Len(t, programs([]string{"/bin/remora", "sidecar", "--mode=node"}), 1)

	for _, told := range []bool{true, false} {
		dir := t.TempDir()
		file := func(name string) string { return filepath.Join(dir, name) }
		lines := func(name string) int {
			text, _ := os.ReadFile(file(name))
			return strings.Count(string(text), "\n")
		}
		script := func(name, last string) *program {
			return &program{args: []string{"/bin/sh", "-c", `trap 'echo '$1' >>$3; exit 5' TERM; echo >>$2; [ $(wc -l <$2) = 1 ] && kill -9 $$; ` + last + `; while :; do sleep 0.02; done`,
				"sh", name, file(name), file("ends")}}
		}
		last := ":"
		if !told {
			last = "while [ ! -s " + file("hold") + " ] || [ $(wc -l <" + file("hold") + ") -lt 2 ]; do sleep 0.02; done; echo serve >>$3; exit 5"
		}
		signals := make(chan os.Signal, 16)
		signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM)
		result := make(chan int, 1)
		go func() { result <- guard([]*program{script("hold", ":"), script("serve", last)}, signals) }()
		if told {
			require.Eventually(t, func() bool { return lines("hold") == 2 && lines("serve") == 2 }, time.Minute, time.Millisecond)
			require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
		}
		select {
		case status := <-result:
			require.Equal(t, 5, status)
		case <-time.After(time.Minute):
			require.FailNow(t, "guard does not end")
		}
		signal.Stop(signals)
		ends, err := os.ReadFile(file("ends"))
		require.NoError(t, err)
		require.Equal(t, "serve\nhold\n", string(ends))
	}
}
