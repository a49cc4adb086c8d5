package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// postgres is a server with its data on a side. PostgreSQL refuses root, so root starts it as user postgres.
type postgres struct {
	bench *bench
	bin   string
	data  string
	run   string // socket and log, on neither side
	cred  *syscall.Credential
}

func newPostgres(b *bench, s side) (*postgres, error) {
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(bins) == 0 {
		return nil, errors.New("no /usr/lib/postgresql/*/bin: run scripts/need bench")
	}
	p := &postgres{bench: b, bin: slices.Max(bins), data: filepath.Join(s.dir, "pgdata"), run: filepath.Join(b.dir, "pg-"+s.name)}
	if os.Geteuid() != 0 {
		return p, os.MkdirAll(p.run, 0o755)
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, err
	}
	p.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return p, errors.Join(os.MkdirAll(p.run, 0o755), os.Chown(p.run, int(uid), int(gid)))
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "PGHOST="+p.run, "PGUSER=postgres", "PGDATABASE=postgres", "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	return cmd
}

// with runs do while the server serves, and always ends the server.
func (p *postgres) with(ctx context.Context, do func() error) (err error) {
	log, err := os.Create(filepath.Join(p.run, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := p.command("postgres", "-D", p.data, "-k", p.run, "-c", "listen_addresses=")
	cmd.Stdout, cmd.Stderr = log, log
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() { _ = cmd.Wait(); close(gone) }() // its log says why
	defer func() { err = errors.Join(err, p.stop(cmd.Process.Pid, gone)) }()

	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := p.bench.run(ctx, 10*time.Second, p.command("pg_isready", "-q")); err == nil {
			return do()
		}
		select {
		case <-gone:
			text, _ := os.ReadFile(log.Name()) // the error below is the one that matters
			return fmt.Errorf("postgres ended at its start%s", lastLines(string(text)))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.New("postgres does not answer after a minute")
		}
	}
}

// stop asks for a fast shutdown, then an immediate one, then kills; a server that hangs in a mount takes the mount with it.
func (p *postgres) stop(pid int, gone <-chan struct{}) error {
	if stop(pid, syscall.SIGINT, gone, 30*time.Second) == nil || stop(pid, syscall.SIGQUIT, gone, 10*time.Second) == nil {
		return nil
	}
	abortMounts(p.bench.dir, p.bench.logf)
	return fmt.Errorf("postgres had to be killed: %w", errors.Join(stop(pid, syscall.SIGKILL, gone, 10*time.Second)))
}

// pgInit makes a cluster and pgbench's tables.
func pgInit(scale int) func(context.Context, *bench, side) error {
	return func(ctx context.Context, b *bench, s side) error {
		p, err := newPostgres(b, s)
		if err != nil {
			return err
		}
		if err := b.shell(ctx, "rm -rf %s && mkdir -m 700 %s", p.data, p.data); err != nil {
			return err
		}
		if p.cred != nil {
			if err := b.shell(ctx, "chown postgres: %s", p.data); err != nil {
				return err
			}
		}
		initdb := p.command("initdb", "-D", p.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-instructions")
		if _, err := b.run(ctx, 3*time.Minute, initdb); err != nil {
			return err
		}
		return p.with(ctx, func() error {
			_, err := b.run(ctx, 5*time.Minute, p.command("pgbench", "-q", "-i", "-s", strconv.Itoa(scale)))
			return err
		})
	}
}

var (
	tps          = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)
	transactions = regexp.MustCompile(`(?m)^number of transactions actually processed: ([0-9]+)`)
)

// pgBench starts the server anew each time: an idle one of the other side would write behind our back.
func pgBench(clients int) func(context.Context, *bench, side) (sample, error) {
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		p, err := newPostgres(b, s)
		if err != nil {
			return nil, err
		}
		var out []byte
		err = p.with(ctx, func() error {
			out, err = b.run(ctx, b.cfg.Timed+2*time.Minute, p.command("pgbench", "-n", "-c", strconv.Itoa(clients), "-j", "2",
				"-T", strconv.Itoa(int(max(b.cfg.Timed, 5*time.Second).Seconds()))))
			return err
		})
		if err != nil {
			return nil, err
		}
		found, done := tps.FindSubmatch(out), transactions.FindSubmatch(out)
		if found == nil || done == nil {
			return nil, fmt.Errorf("pgbench: no tps in %.300q", out)
		}
		value, err := strconv.ParseFloat(string(found[1]), 64)
		count, countErr := strconv.ParseFloat(string(done[1]), 64)
		return sample{"tps": value, operationsDone: count}, errors.Join(err, countErr)
	}
}
