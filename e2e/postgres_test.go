package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// postgres is a server of Debian's PostgreSQL, with its data on a mount and all else beside it.
type postgres struct {
	t      *testing.T
	i      *instance
	bin    string // directory of its programs
	data   string
	aside  string // socket and logs, not on the mount
	server *child
}

func newPostgres(i *instance) *postgres {
	t := i.t
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	require.NoError(t, err)
	if len(found) == 0 {
		t.Skip("needs PostgreSQL: apt-get install postgresql postgresql-contrib")
	}
	pg := &postgres{t: t, i: i, bin: filepath.Dir(slices.Max(found)), data: filepath.Join(i.mount("db-0"), "pg"), aside: tempDir(t)}
	uid, gid := idsOf(t, "postgres")
	require.NoError(t, os.Chown(pg.aside, int(uid), int(gid)))
	return pg
}

// program prepares one of PostgreSQL's programs.
func (pg *postgres) program(name string, args ...string) *child {
	c := pg.i.program("postgres", []string{"PGHOST=" + pg.aside, "PGDATABASE=postgres", "PGUSER=postgres"}, filepath.Join(pg.bin, name), args...)
	c.cmd.Dir = pg.aside
	return c
}

func (pg *postgres) start() {
	pg.t.Helper()
	pg.server = pg.program("postgres", "-D", pg.data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+pg.aside).start()
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if pg.program("pg_isready", "-q").start().wait(10*time.Second) == nil {
			return
		}
		select {
		case <-pg.server.done:
			require.FailNow(pg.t, "postgres ended", "%v\n%s", pg.server.err, pg.server.out.String())
		default:
		}
	}
	require.FailNow(pg.t, "postgres is not ready", pg.server.out.String())
}

// stop is PostgreSQL's fast shutdown.
func (pg *postgres) stop() {
	pg.t.Helper()
	require.NoError(pg.t, pg.server.cmd.Process.Signal(syscall.SIGINT))
	pg.server.ok(time.Minute)
}

func (pg *postgres) query(sql string) string {
	pg.t.Helper()
	return strings.TrimSpace(pg.program("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql).run(time.Minute))
}

// TestPostgres runs pgbench while sidecars are killed: no transaction fails, and all that pgbench counted are there.
func TestPostgres(t *testing.T) {
	t.Parallel()
	scale, seconds := "10", 20
	if os.Getenv("CI") == "true" || testing.Short() {
		seconds = 8
	}
	i := startOne(t)
	pg := newPostgres(i)
	pg.program("initdb", "-D", pg.data, "--data-checksums", "--auth=trust", "--username=postgres").run(2 * time.Minute)
	pg.start()
	began := time.Now()
	pg.program("pgbench", "-i", "-q", "-s", scale).run(3 * time.Minute)
	t.Logf("pgbench -i -s %s: %v", scale, time.Since(began).Round(time.Millisecond))

	bench := pg.program("pgbench", "-n", "-c", "4", "-j", "2", "-T", strconv.Itoa(seconds), "--log", "--log-prefix=tx", "--max-tries=1")
	bench.start()
	kills := 0
	for began = time.Now(); time.Since(began) < time.Duration(seconds)*time.Second-2*time.Second; kills++ {
		time.Sleep(time.Second) // of work between two deaths
		i.killSidecar("db-0")
	}
	report := bench.ok(2 * time.Minute)
	require.Contains(t, report, "number of failed transactions: 0 (0.000%)")
	done := number(t, report, "number of transactions actually processed: ")
	require.Equal(t, strconv.Itoa(done), pg.query("SELECT count(*) FROM pgbench_history"))
	t.Logf("%d kills, %d transactions, longest pause %v", kills, done, pg.longest())
	require.Positive(t, done)

	pg.query("CREATE EXTENSION amcheck")
	pg.program("pg_amcheck", "--all", "--heapallindexed", "--parent-check").run(2 * time.Minute)
	pg.stop()
	pg.program("pg_checksums", "--check", "-D", pg.data).run(2 * time.Minute)

	i.stop()
	i.again()
	pg.start()
	require.Equal(t, strconv.Itoa(done), pg.query("SELECT count(*) FROM pgbench_history"))
	pg.stop()
}

// number returns the number that follows the text.
func number(t *testing.T, report, text string) int {
	t.Helper()
	_, after, ok := strings.Cut(report, text)
	require.True(t, ok, "no %q in %s", text, report)
	digits, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(digits)
	require.NoError(t, err)
	return n
}

// longest is the longest transaction of pgbench's log: "client transaction microseconds script second microsecond".
func (pg *postgres) longest() time.Duration {
	pg.t.Helper()
	logs, err := filepath.Glob(filepath.Join(pg.aside, "tx.*"))
	require.NoError(pg.t, err)
	require.NotEmpty(pg.t, logs)
	var all []time.Duration
	for _, log := range logs {
		b, err := os.ReadFile(log)
		require.NoError(pg.t, err)
		for _, line := range lines(string(b)) {
			us, err := strconv.ParseInt(strings.Fields(line)[2], 10, 64)
			require.NoError(pg.t, err, fmt.Sprintf("%s: %s", log, line))
			all = append(all, time.Duration(us)*time.Microsecond)
		}
	}
	return slices.MaxFunc(all, cmp.Compare[time.Duration])
}
