package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSQLite has several processes write to one database in WAL mode, whose index is a shared memory map, while sidecars are killed.
func TestSQLite(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("needs SQLite: apt-get install sqlite3")
	}
	const writers, transactions = 3, 150
	i := startOne(t)
	file := filepath.Join(i.mount("db-0"), "test.db")
	sqlite := func(script string) *child {
		return i.program("", nil, "sqlite3", "-bail", "-batch", file).input(".timeout 60000\nPRAGMA synchronous=FULL;\n" + script)
	}
	require.Equal(t, "wal\n", sqlite("PRAGMA journal_mode=WAL;\nCREATE TABLE t(writer INTEGER, n INTEGER, b BLOB, PRIMARY KEY(writer, n));").run(time.Minute))
	var all []*child
	for w := range writers {
		var script strings.Builder
		for n := range transactions {
			fmt.Fprintf(&script, "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d, %d, randomblob(3000)); COMMIT;\n", w, n)
		}
		all = append(all, sqlite(script.String()).start())
	}
	for range 4 {
		time.Sleep(200 * time.Millisecond) // of work between two deaths
		i.killSidecar("db-0")
	}
	for _, c := range all {
		require.Empty(t, c.ok(2*time.Minute))
	}
	checkDatabase := func() {
		t.Helper()
		require.Equal(t, fmt.Sprintf("ok\n%d\n", writers*transactions), sqlite("PRAGMA integrity_check; SELECT count(*) FROM t;").run(time.Minute))
	}
	checkDatabase()
	i.killSidecar("db-0")
	checkDatabase()
}
