//go:build realwork

package e2e

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var postgresSource = flag.String("postgres", "", "tarball of PostgreSQL's source")

// TestPostgresRegression builds PostgreSQL on the volume, starts a server that has its data there, with fsync, and runs PostgreSQL's
// own regression and isolation tests against it; the sidecar is killed under the former. Indexes, heaps and checksums are checked after.
func TestPostgresRegression(t *testing.T) {
	w := newRealWork(t)
	uid, gid := idsOf(t, "postgres")
	aside := tempDir(t)
	require.NoError(t, os.Chown(aside, int(uid), int(gid)))
	w.sh(10*time.Minute, w.mount, `mkdir pg; tar -C pg --strip-components=1 -xf "$1"; chown -R postgres: pg`, *postgresSource)
	source := filepath.Join(w.mount, "pg")
	program := func(script string) *child {
		return w.i.program("postgres", []string{"PGHOST=" + aside, "PGUSER=postgres", "PGDATABASE=postgres", "HOME=" + aside,
			"PATH=" + source + "/inst/bin:" + os.Getenv("PATH")}, "sh", "-euc", `cd "$0"; `+script, source)
	}
	step := func(title string, limit time.Duration, script string) string {
		t.Helper()
		began := time.Now()
		out := program(script).run(limit)
		t.Logf("%-48s %.1f s", title, time.Since(began).Seconds())
		return out
	}
	step("configure", 10*time.Minute, `./configure -q --prefix="$0"/inst --without-readline --without-zlib CFLAGS=-O1`)
	step("make -j2", 30*time.Minute, `make -s -j2 world-bin >log 2>&1 || { tail -n 30 log; exit 1; }; make -s install-world-bin`)
	step("initdb", 5*time.Minute, `initdb -D data --data-checksums --auth=trust --username=postgres --locale=C --encoding=UTF8`)
	step("pg_ctl start", time.Minute, `pg_ctl -w -D data -l server.log -o "-c listen_addresses= -c unix_socket_directories=$PGHOST" start >/dev/null`)
	defer program(`pg_ctl -D data -m immediate stop || true`).run(time.Minute)

	began := time.Now()
	regression := program(`make -s -C src/test/regress installcheck-parallel || { cat src/test/regress/regression.diffs; exit 1; }`).start()
	killed := w.i.killEvery(10*time.Second, regression)
	out := regression.ok(60 * time.Minute)
	t.Logf("%-48s %.1f s, %d kills: %s", "make installcheck-parallel", time.Since(began).Seconds(), <-killed, verdict(t, out))

	out = step("isolation: make installcheck", 60*time.Minute,
		`make -s -C src/test/isolation installcheck || { cat src/test/isolation/output_iso/regression.diffs; exit 1; }`)
	t.Logf("  %s", verdict(t, out))
	step("pg_amcheck", 10*time.Minute, `pg_amcheck --all --install-missing --heapallindexed --parent-check --rootdescend`)
	step("pg_ctl stop", time.Minute, `pg_ctl -w -D data -m fast stop`)
	step("pg_checksums", 5*time.Minute, `pg_checksums -D data --check`)
}

// verdict is what pg_regress says at its end.
func verdict(t *testing.T, out string) string {
	t.Helper()
	for line := range strings.Lines(out) {
		if strings.Contains(line, "tests passed") {
			return strings.Trim(line, " \n")
		}
	}
	require.FailNow(t, "no verdict", out)
	return ""
}
