// Command remora-init is pid 1 of Remora's image. It runs the program that its arguments name; a sidecar that is killed or panics it
// starts again at once, in the same container.
//
// kubelet would do that too, but only the first time at once: then it waits 10 s, 20 s, 40 s, up to 5 minutes, and the
// application's calls wait as long. A sidecar that ends by itself, with an error, is not started again: kubelet sees its
// status, shows it, and takes its time. So does one that is killed again and again without having served.
//
// `remora-init ready PORT` is the hook behind the container's start: it ends when the sidecar serves every mount, and kubelet starts the pod's
// other containers then.
//
// It is a program of its own, without imports, because it stays in the memory of every pod.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: remora-init PROGRAM ARGUMENTS... | remora-init ready PORT")
		os.Exit(2)
	}
	if len(os.Args) == 3 && os.Args[1] == "ready" {
		if err := ready(os.Args[2], readyLimit); err != nil {
			fmt.Println("remora-init: ready:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 3 || os.Args[2] != "sidecar" {
		err := syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
		fmt.Fprintln(os.Stderr, "remora-init:", os.Args[1], err)
		os.Exit(1)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCHLD)
	os.Exit(guard(os.Args[1:], signals))
}

// tooOften is how many deaths within tooSoon are enough to leave the rest to kubelet.
const (
	tooOften = 20
	tooSoon  = 30 * time.Second
)

// guard runs a program until it ends for good, and returns the status that a shell would.
func guard(args []string, signals <-chan os.Signal) int {
	var deaths []time.Time
	for {
		pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{
			Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true},
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "remora-init:", args[0], err)
			return 1
		}
		status, told := wait(pid, signals)
		if told || !crashed(status) {
			return code(status)
		}
		now := time.Now()
		deaths = append(deaths, now)
		if n := len(deaths); n >= tooOften {
			if now.Sub(deaths[n-tooOften]) < tooSoon {
				fmt.Fprintf(os.Stderr, "remora-init: %d deaths within %s: giving up\n", tooOften, tooSoon)
				return code(status)
			}
			deaths = deaths[1:]
		}
		fmt.Fprintf(os.Stderr, "remora-init: the sidecar (pid %d) died: %s; starting it again\n", pid, describe(status))
	}
}

// wait passes signals on until the program ends, and reaps whatever else is left to pid 1. told says that somebody asked it to
// end.
func wait(pid int, signals <-chan os.Signal) (status syscall.WaitStatus, told bool) {
	for s := range signals {
		if s != syscall.SIGCHLD {
			told = told || s == syscall.SIGTERM || s == syscall.SIGINT
			_ = syscall.Kill(pid, s.(syscall.Signal)) // it may have ended meanwhile
			continue
		}
		for {
			got, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if got == pid {
				return status, told
			}
			if got <= 0 || err != nil {
				break
			}
		}
	}
	return status, told
}

// crashed is true of a death by signal, and of status 2, which is a panic; `remora` ends with 1 where it ends with an error.
func crashed(s syscall.WaitStatus) bool { return s.Signaled() || s.ExitStatus() == 2 }

func code(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("status %d", s.ExitStatus())
}
