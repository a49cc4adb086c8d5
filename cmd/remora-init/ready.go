package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// readyLimit is how long the hook waits before kubelet starts the container again; readyPause is between two questions. A sidecar that is
// there and not ready takes its time to answer.
const (
	readyLimit = 5 * time.Minute
	readyPause = 10 * time.Millisecond
)

// hopeless are states that waiting does not cure (sidecar/status). kubelet shows nothing of a container whose hook runs, its log neither; so
// the hook ends, and what it says stands in the pod's status.
var hopeless = []string{"Damaged", "MajorityLost"}

// ready waits until the sidecar on this port says that every volume is mounted.
func ready(port string, limit time.Duration) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %q; allowed: 1 to 65535", port)
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(readyPause) {
		answer, err := ask(int(n))
		if err == nil && strings.HasPrefix(answer, "HTTP/1.") && strings.HasPrefix(strings.TrimLeft(answer[len("HTTP/1."):], "01"), " 200 ") {
			return nil
		}
		_, body, _ := strings.Cut(answer, "\r\n\r\n")
		for _, state := range hopeless {
			if strings.HasSuffix(strings.TrimSpace(body), " is "+state) {
				return errors.New(strings.TrimSpace(body) + ": see the log of container remora")
			}
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("not in %s: %s", limit, strings.TrimSpace(body)), err)
		}
	}
}

// ask sends GET /readyz to this pod's own address and returns the whole answer. Package net would be in the memory of every pod.
func ask(port int) (string, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd)
	patience := syscall.Timeval{Sec: 5}
	for _, option := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &patience); err != nil {
			return "", err
		}
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	if _, err := syscall.Write(fd, []byte("GET /readyz HTTP/1.0\r\n\r\n")); err != nil {
		return "", fmt.Errorf("write: %w", err)
	}
	var answer []byte
	for buffer := make([]byte, 1024); len(answer) < 16<<10; {
		n, err := syscall.Read(fd, buffer)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return string(answer), err
		}
		answer = append(answer, buffer[:n]...)
	}
	return string(answer), nil
}
