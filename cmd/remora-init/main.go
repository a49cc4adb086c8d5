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
	os.Exit(guard(programs(os.Args[1:]), signals))
}

// nobody is who serves the volumes in a container that is root's.
const nobody = 65534

// programs are what the container runs: a sidecar; in privileged mode before it `remora hold`, with the same arguments, which makes the mounts,
// and keeps their descriptors while the sidecar is started again. That one stays root, the sidecar does not.
func programs(args []string) []*program {
	serve := &program{args: args}
	for _, a := range args {
		if a == "--mode=privileged" {
			serve.as = &syscall.Credential{Uid: nobody, Gid: nobody}
			return []*program{{args: append([]string{args[0], "hold"}, args[2:]...)}, serve}
		}
	}
	return []*program{serve}
}

// tooOften is how many deaths within tooSoon are enough to leave the rest to kubelet.
const (
	tooOften = 20
	tooSoon  = 30 * time.Second
)

// program is one that is started again when it is killed.
type program struct {
	args   []string
	as     *syscall.Credential // nil: who we are
	pid    int                 // 0: does not run
	deaths []time.Time
}

func (p *program) start() error {
	pid, err := syscall.ForkExec(p.args[0], p.args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true, Credential: p.as},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "remora-init:", p.args[0], err)
		return err
	}
	p.pid = pid
	return nil
}

// again says whether the program is to be started again after this death, and tells of it.
func (p *program) again(pid int, status syscall.WaitStatus) bool {
	now := time.Now()
	p.deaths = append(p.deaths, now)
	if n := len(p.deaths); n >= tooOften {
		if now.Sub(p.deaths[n-tooOften]) < tooSoon {
			fmt.Fprintf(os.Stderr, "remora-init: %d deaths within %s: giving up\n", tooOften, tooSoon)
			return false
		}
		p.deaths = p.deaths[1:]
	}
	fmt.Fprintf(os.Stderr, "remora-init: the %s (pid %d) died: %s; starting it again\n", p.args[1], pid, describe(status))
	return true
}

// guard runs programs until one of them ends for good, and returns the status that a shell would. The others are ended then, the last
// first: who serves before who holds. So they are when somebody asks for the end.
func guard(all []*program, signals <-chan os.Signal) (result int) {
	ending := false
	end := func(status int) {
		if !ending {
			ending, result = true, status
			stopLast(all, syscall.SIGTERM)
		}
	}
	for _, p := range all {
		if err := p.start(); err != nil {
			end(1)
			break
		}
	}
	for stillRun(all) {
		s := <-signals
		if s != syscall.SIGCHLD {
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				ending = true
			}
			stopLast(all, s.(syscall.Signal)) // passes it on, whatever it means
			continue
		}
		for pid, status := reap(); pid > 0; pid, status = reap() {
			for i, p := range all {
				if p.pid != pid {
					continue
				}
				p.pid = 0
				switch {
				case ending:
					if i == len(all)-1 && result == 0 {
						result = code(status)
					}
					stopLast(all, syscall.SIGTERM)
				case !crashed(status) || !p.again(pid, status) || p.start() != nil:
					end(code(status))
				}
			}
		}
	}
	return result
}

func stillRun(all []*program) bool {
	for _, p := range all {
		if p.pid != 0 {
			return true
		}
	}
	return false
}

// stopLast sends a signal to the last program that runs.
func stopLast(all []*program, s syscall.Signal) {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].pid != 0 {
			_ = syscall.Kill(all[i].pid, s) // it may have ended meanwhile
			return
		}
	}
}

// reap returns a child that has ended, whosever it was; 0 if there is none.
func reap() (int, syscall.WaitStatus) {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err != nil || pid < 0 {
		return 0, status
	}
	return pid, status
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
