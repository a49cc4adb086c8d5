package powercut

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	images    = flag.Int("images", 40, "power cuts on ext4")
	xfsImages = flag.Int("xfs-images", 10, "power cuts on XFS")
	shutdowns = flag.Int("shutdowns", 4, "shutdowns of each file system")
	faults    = flag.Int("faults", 4, "histories with a disk error, on each file system")
	steps     = flag.Int("steps", 80, "of a history, at most")
	seed      = flag.Uint64("seed", 0, "of everything random; 0 draws one")
	keep      = flag.String("keep", "", "a directory for the notes and images of violations")
)

// One program plays all roles; the environment says which.
const (
	roleEnv = "REMORA_POWERCUT_ROLE"
	baseEnv = "REMORA_POWERCUT_BASE"
)

// TestMain runs the tests in a mount namespace of their own.
func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "disk":
		os.Exit(diskMain())
	case "worker":
		os.Exit(workerMain())
	case "tests":
		if err := settle(os.Getenv(baseEnv)); err != nil {
			fmt.Fprintln(os.Stderr, "powercut: mount namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if unusable() != "" {
		os.Exit(m.Run()) // every test says why it is skipped
	}
	code, err := inNamespace()
	if err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		code = 1
	}
	os.Exit(code)
}

// unusable is why this machine cannot run the tests.
func unusable() string {
	if os.Geteuid() != 0 {
		return "needs root: it mounts file systems on loop devices"
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if f, err := os.OpenFile(dev, os.O_RDWR, 0); err != nil {
			return "needs " + dev + ": " + err.Error()
		} else if err := f.Close(); err != nil {
			return err.Error()
		}
	}
	return ""
}

// inNamespace runs this program again as the tests, and returns its exit code.
func inNamespace() (code int, err error) {
	base, err := os.MkdirTemp("", "remora-powercut-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.Remove(base)) }() // a tmpfs was mounted on it, in the other namespace only
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	runtime.LockOSThread() // Pdeathsig is the death of this thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), roleEnv+"=tests", baseEnv+"="+base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if !exit.Exited() {
			return 1, fmt.Errorf("the tests: %w", err)
		}
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// settle makes the new namespace private, lets go of the mounts of other people (a mount that is held here would not end there),
// and puts a disk in memory at base.
func settle(base string) error {
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil { // of mkfs
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	known := []string{"proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "cgroup", "cgroup2", "fusectl", "overlay"}
	var foreign []string
	for s := bufio.NewScanner(f); s.Scan(); {
		point, kind := mountLine(s.Text())
		if point != "/" && !slices.Contains(known, kind) {
			foreign = append(foreign, point)
		}
	}
	slices.Reverse(foreign) // what is mounted on top goes first
	for _, point := range foreign {
		// A directory of the machine's own that lies on another disk may be busy: it may stay.
		_ = unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return unix.Mount("powercut", base, "tmpfs", 0, "size=80%,mode=700")
}

// mountLine is where a line of mountinfo mounts what kind of file system (proc(5)).
func mountLine(line string) (point, kind string) {
	f := strings.Fields(line)
	i := slices.Index(f, "-")
	if len(f) < 5 || i < 0 || i+1 >= len(f) {
		return "/", ""
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4]), f[i+1]
}
