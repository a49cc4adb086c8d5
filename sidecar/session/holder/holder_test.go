package holder_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/session/holder/holdertest"
)

// patience bounds everything that must not hang.
const patience = 10 * time.Second

// TestMain lets the test binary play the sidecar: HOLDER_SOCKET VOLUME STEP, where STEP is how far it goes before it waits.
func TestMain(m *testing.M) {
	if os.Getenv("HOLDER_TEST_SIDECAR") == "" {
		os.Exit(m.Run())
	}
	if err := sidecar(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func sidecar(socket, volume, step string) error {
	c, err := holder.Attach(context.Background(), socket, volume)
	if err != nil {
		return err
	}
	if step == "attach" {
		fmt.Println("attached", c.State)
		select {}
	}
	if err := holdertest.Start(c); err != nil {
		return err
	}
	fmt.Println("serving", hex.EncodeToString(c.Init), hex.EncodeToString(c.Reply))
	if err := holdertest.Serve(c); err != nil {
		return err
	}
	return c.Lost()
}

// fixture is a mount of volume "data", offered on a socket with a long path.
type fixture struct {
	t      *testing.T
	mount  *holder.Mount
	socket string
	events chan holder.Event
	stop   func() // ends the server
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	needFUSE(t)
	// a path with a blank, which mountinfo escapes, and longer than a socket's name may be
	dir := filepath.Join(t.TempDir(), "a b", strings.Repeat("long", 30))
	target := filepath.Join(dir, "mnt")
	require.NoError(t, os.MkdirAll(target, 0o755))
	m, err := holder.Open(target, holder.MountOptions{Volume: "data-db-0", AllowOther: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	f := &fixture{t: t, mount: m, socket: filepath.Join(dir, "holder.sock"), events: make(chan holder.Event, 100)}
	f.serve()
	return f
}

func (f *fixture) serve() {
	s := holder.NewServer(holder.Config{
		Log:    slog.New(slog.DiscardHandler),
		Notify: f.notify,
		Grace:  200 * time.Millisecond,
	})
	s.Add("data", f.mount)
	l, err := holder.Listen(f.socket)
	require.NoError(f.t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	f.stop = sync.OnceFunc(func() {
		stop()
		require.NoError(f.t, <-done)
		_, err := os.Lstat(f.socket)
		require.ErrorIs(f.t, err, os.ErrNotExist)
	})
	f.t.Cleanup(f.stop)
}

func (f *fixture) notify(e holder.Event) {
	select {
	case f.events <- e:
	default: // a test that looks at events has few
	}
}

func needFUSE(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount FUSE")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
}

// process is a sidecar of its own.
type process struct {
	*exec.Cmd
	t   *testing.T
	out io.Reader
}

// start starts a sidecar and returns it with the first line that it prints.
func (f *fixture) start(step string) (p *process, first string) {
	f.t.Helper()
	cmd := exec.Command("/proc/self/exe", f.socket, "data", step)
	cmd.Env = append(os.Environ(), "HOLDER_TEST_SIDECAR=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(f.t, err)
	require.NoError(f.t, cmd.Start())
	p = &process{Cmd: cmd, t: f.t, out: out}
	f.t.Cleanup(func() { p.kill() })
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	require.NoError(f.t, err)
	return p, strings.TrimSpace(string(buf[:n]))
}

func (p *process) kill() {
	if p.ProcessState == nil {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
}

func (f *fixture) expect(kind holder.Kind) {
	f.t.Helper()
	select {
	case e := <-f.events:
		require.Equal(f.t, kind, e.Kind)
		require.Equal(f.t, "data", e.Volume)
		require.NotZero(f.t, e.PID)
	case <-time.After(patience):
		f.t.Fatalf("no event %q", kind)
	}
}

// stat looks at the mount from a process of its own, because the holder must not.
func (f *fixture) stat() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "stat", "-c", "%i", f.mount.Target())
	cmd.Cancel = func() error { // a signal does not wake who waits for a request that was read
		return errors.Join(f.mount.Abort(), cmd.Process.Kill())
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// within fails the test if do needs longer than patience; the mount is aborted then, so that nothing stays behind.
func (f *fixture) within(do func() error) {
	f.t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		require.NoError(f.t, err)
	case <-time.After(patience):
		require.NoError(f.t, f.mount.Abort())
		f.t.Fatal("hangs")
	}
}

func TestSuccessorGetsTheSameINIT(t *testing.T) {
	f := newFixture(t)
	session := f.mount.SessionID()
	require.NotZero(t, session)
	require.Equal(t, holder.Fresh, f.mount.State())

	first, said := f.start("serve")
	require.Equal(t, "serving", said)
	f.expect(holder.Attached)
	f.expect(holder.Serving)
	require.Equal(t, holder.Ready, f.mount.State())
	require.NoError(t, f.stat())
	first.kill()
	f.expect(holder.Gone)

	c, err := holder.Attach(t.Context(), f.socket, "data")
	require.NoError(t, err)
	require.Equal(t, session, c.SessionID)
	require.Equal(t, holder.Ready, c.State)
	want := "serving " + hex.EncodeToString(c.Init) + " " + hex.EncodeToString(c.Reply)
	require.NotEmpty(t, c.Init)
	require.NoError(t, c.Close())

	_, said = f.start("serve")
	require.Equal(t, want, said)
	require.NoError(t, f.stat())
}

func TestDeathBeforeReadyMountsAnew(t *testing.T) {
	f := newFixture(t)
	session := f.mount.SessionID()
	first, said := f.start("attach")
	require.Equal(t, "attached Fresh", said)
	first.kill() // nobody knows whether it had read INIT

	_, said = f.start("serve")
	require.Equal(t, "serving", said)
	require.NotEqual(t, session, f.mount.SessionID())
	require.NoError(t, f.stat())
}

func TestDeathBetweenInitAndReadyMountsAnew(t *testing.T) {
	f := newFixture(t)
	session := f.mount.SessionID()
	c, err := holder.Attach(t.Context(), f.socket, "data")
	require.NoError(t, err)
	require.NoError(t, c.StoreInit([]byte("request"), []byte("reply")))
	require.Equal(t, holder.Initialising, f.mount.State())
	require.NoError(t, c.Close())

	c, err = holder.Attach(t.Context(), f.socket, "data")
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, holder.Fresh, c.State)
	require.Empty(t, c.Init)
	require.NotEqual(t, session, c.SessionID)
}

func TestOneServerPerMount(t *testing.T) {
	f := newFixture(t)
	c, err := holder.Attach(t.Context(), f.socket, "data")
	require.NoError(t, err)
	_, err = holder.Attach(t.Context(), f.socket, "data")
	require.ErrorContains(t, err, fmt.Sprintf("served by process %d", os.Getpid()))
	_, err = holder.Attach(t.Context(), f.socket, "other")
	require.ErrorContains(t, err, `unknown volume "other"`)
	require.ErrorContains(t, c.Ready(), "store INIT")
	require.NoError(t, c.Close())

	c, err = holder.Attach(t.Context(), f.socket, "data") // the first is gone
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestNothingHangsWithoutASidecar(t *testing.T) {
	for _, step := range []string{"fresh", "attach", "serve"} {
		t.Run(step, func(t *testing.T) {
			f := newFixture(t)
			if step != "fresh" {
				p, _ := f.start(step)
				p.kill()
			}
			looking := exec.Command("stat", f.mount.Target())
			require.NoError(t, looking.Start())
			time.Sleep(50 * time.Millisecond) // let it wait on the mount; a shorter wait only makes the test weaker
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			f.within(func() error { _ = f.mount.Unmount(ctx); return nil })
			f.within(f.mount.Close)
			f.within(func() error { _ = looking.Wait(); return nil })
			f.within(f.mount.Close) // twice is harmless
			require.ErrorIs(t, f.mount.Remount(), holder.ErrClosed)
		})
	}
}

func TestUnmount(t *testing.T) {
	f := newFixture(t)
	p, _ := f.start("serve")
	busy := exec.Command("sleep", "1000")
	busy.Dir = f.mount.Target()
	require.NoError(t, busy.Start())
	require.ErrorIs(t, f.mount.Unmount(t.Context()), holder.ErrBusy)
	require.NoError(t, busy.Process.Kill())
	_ = busy.Wait()
	f.within(func() error { return f.mount.Unmount(t.Context()) })
	f.within(p.Wait) // the kernel told it that the mount is gone
	require.NoError(t, f.stat(), "the plain directory below is back")
	require.NotContains(t, mountinfo(t), f.mount.Target())
}

func TestConnectionEndedFromOutside(t *testing.T) {
	f := newFixture(t)
	for _, end := range []func() error{
		f.mount.Abort,
		f.mount.Remount,
		func() error { return unix.Unmount(f.mount.Target(), 0) },
	} {
		p, _ := f.start("serve")
		require.NoError(t, f.stat())
		require.NoError(t, end())
		f.within(p.Wait) // it exits with code 0
	}
	f.start("serve")
	require.NoError(t, f.stat())
	require.Equal(t, 1, strings.Count(mountinfo(t), f.mount.Target()))
}

func TestClientLearnsThatTheHolderIsGone(t *testing.T) {
	needFUSE(t)
	target := t.TempDir()
	m, err := holder.Open(target, holder.MountOptions{Volume: "v"})
	require.NoError(t, err)
	defer m.Close()
	s := holder.NewServer(holder.Config{Log: slog.New(slog.DiscardHandler)})
	s.Add("data", m)
	socket := filepath.Join(t.TempDir(), "holder.sock")
	l, err := holder.Listen(socket)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	c, err := holder.Attach(t.Context(), socket, "data")
	require.NoError(t, err)
	stop()
	require.NoError(t, <-done)
	<-c.Done()
	require.Error(t, c.Ready())
	require.NoError(t, c.Close())
}

func TestOpenRefuses(t *testing.T) {
	needFUSE(t)
	dir := t.TempDir()
	_, err := holder.Open(filepath.Join(dir, "missing"), holder.MountOptions{Volume: "v"})
	require.ErrorIs(t, err, os.ErrNotExist)
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("/tmp", link))
	_, err = holder.Open(link, holder.MountOptions{Volume: "v"})
	require.ErrorContains(t, err, "must be a directory")
	f := newFixture(t)
	_, err = holder.Open(f.mount.Target(), holder.MountOptions{Volume: "v"})
	require.ErrorContains(t, err, "mounted there already")
}

func TestSweep(t *testing.T) {
	f := newFixture(t)
	log := slog.New(slog.DiscardHandler)
	cleared, err := holder.Sweep(t.TempDir(), log)
	require.NoError(t, err)
	require.Empty(t, cleared)
	cleared, err = holder.Sweep(filepath.Dir(f.mount.Target()), log)
	require.NoError(t, err)
	require.Equal(t, []string{f.mount.Target()}, cleared)
	require.NoError(t, f.stat())
}

func mountinfo(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return strings.ReplaceAll(string(b), `\040`, " ")
}
