package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	minutes   = flag.Float64("minutes", 0, "how long TestPostgresThreeCopies does harm; 0: some seconds")
	faultSeed = flag.Uint64("fault-seed", 0, "of what TestPostgresThreeCopies does; 0: a random one")
)

// TestPostgresThreeCopies runs pgbench on a volume of three copies while its replicas' processes are killed, paused, cut off and restarted:
// no transaction fails. Then the node goes, under load: PostgreSQL recovers on another one, with everything that it acknowledged.
func TestPostgresThreeCopies(t *testing.T) {
	t.Parallel()
	harm, scale := 12*time.Second, "10"
	if os.Getenv("CI") == "true" || testing.Short() {
		harm, scale = 8*time.Second, "2"
	}
	if *minutes > 0 {
		harm, scale = time.Duration(*minutes*float64(time.Minute)), "50"
	}
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), strings.Replace(replicated(1), "size: 1Gi", "size: 8Gi", 1))
	pg := newPostgres(i)
	pg.program("initdb", "-D", pg.data, "--data-checksums", "--auth=trust", "--username=postgres").run(5 * time.Minute)
	pg.start()
	pg.program("pgbench", "-i", "-q", "-s", scale).run(20 * time.Minute)
	pg.query("CREATE EXTENSION amcheck; CREATE TABLE acknowledged (n int PRIMARY KEY)")

	bench := pg.program("pgbench", "-n", "-c", "4", "-j", "2", "-T", strconv.Itoa(int(harm.Seconds())), "--log", "--log-prefix=tx", "--max-tries=1").start()
	acks := pg.acknowledge(0)
	did := i.harm(harm-2*time.Second, bench)
	report := bench.ok(5 * time.Minute)
	require.Contains(t, report, "number of failed transactions: 0 (0.000%)")
	done := number(t, report, "number of transactions actually processed: ")
	require.Equal(t, strconv.Itoa(done), pg.query("SELECT count(*) FROM pgbench_history"))
	t.Logf("%v: %d transactions, longest pause %v", did, done, pg.longest())
	acks.check()
	pg.amcheck()
	i.inSync("db-0")

	// The node goes under load.
	load := pg.program("pgbench", "-n", "-c", "4", "-j", "2", "-T", "600").start()
	acks = pg.acknowledge(1_000_000)
	acks.more(50)
	i.dev("fail-node", i.pod("db-0").Node).run(2 * time.Minute)
	pg.server.kill()
	load.kill()
	acks.kill()
	pg.start()
	acks.check()
	pg.amcheck()
	require.GreaterOrEqual(t, number(t, pg.query("SELECT count(*) FROM pgbench_history")+"\n", ""), done)
	pg.stop()
	pg.program("pg_checksums", "--check", "-D", pg.data).run(5 * time.Minute)
	i.inSync("db-0")
}

func (pg *postgres) amcheck() {
	pg.t.Helper()
	pg.program("pg_amcheck", "--all", "--heapallindexed", "--parent-check").run(20 * time.Minute)
}

// acknowledgements are numbers that a client inserts one by one, each a transaction; it prints what was acknowledged.
type acknowledgements struct {
	*child
	pg *postgres
}

func (pg *postgres) acknowledge(from int) *acknowledgements {
	pg.t.Helper()
	var script strings.Builder
	for n := range 200_000 {
		fmt.Fprintf(&script, "INSERT INTO acknowledged VALUES (%d) RETURNING n;\n", from+n)
	}
	c := pg.program("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1").input(script.String()).start()
	return &acknowledgements{c, pg}
}

func (a *acknowledgements) said() (numbers []string) {
	for _, line := range strings.SplitAfter(a.out.String(), "\n") {
		if n, ok := strings.CutSuffix(line, "\n"); ok {
			if _, err := strconv.Atoi(n); err == nil { // psql may have said why it ended
				numbers = append(numbers, n)
			}
		}
	}
	return numbers
}

// more waits for n more of them.
func (a *acknowledgements) more(n int) {
	a.t.Helper()
	want := len(a.said()) + n
	require.Eventually(a.t, func() bool { return len(a.said()) >= want }, startLimit, 20*time.Millisecond, a.out.String())
}

// check ends the client and looks for what it was told.
func (a *acknowledgements) check() {
	a.t.Helper()
	a.kill()
	said := a.said()
	require.NotEmpty(a.t, said)
	first, last := said[0], said[len(said)-1]
	have := a.pg.query(fmt.Sprintf("SELECT count(*) FROM acknowledged WHERE n BETWEEN %s AND %s", first, last))
	require.Equal(a.t, strconv.Itoa(len(said)), have, "transactions %s to %s were acknowledged", first, last)
	a.t.Logf("%d transactions were acknowledged to a client, all are there", len(said))
}

// harm does this and that to the processes of the volume's replicas, and counts it. It stops early when the program ends.
func (i *instance) harm(limit time.Duration, while *child) map[string]int {
	seed := *faultSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	i.t.Logf("-fault-seed=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	did := map[string]int{}
	faults := []struct {
		name string
		do   func(keeper podStatus)
	}{
		{"owner killed", func(podStatus) { i.killSidecar("db-0") }},
		{"peer killed", func(k podStatus) { i.signal(k, syscall.SIGKILL) }},
		{"peer stopped", func(k podStatus) { i.signal(k, syscall.SIGTERM) }},
		{"peer paused", func(k podStatus) {
			i.signal(k, syscall.SIGSTOP)
			time.Sleep(time.Duration(200+random.IntN(2000)) * time.Millisecond) // the fault itself
			i.signal(k, syscall.SIGCONT)
		}},
		{"peer cut off", func(k podStatus) {
			mend := i.cut(k.Name)
			time.Sleep(time.Duration(200+random.IntN(4000)) * time.Millisecond) // the fault itself
			mend()
		}},
	}
	for end := time.Now().Add(limit); time.Now().Before(end); {
		select {
		case <-while.done:
			return did
		case <-time.After(200 * time.Millisecond): // of work between two faults
		}
		f := faults[random.IntN(len(faults))]
		keeper := i.pod(fmt.Sprint("keeper-node-", 1+random.IntN(2)))
		if keeper.PID == nil {
			continue // it is just starting
		}
		f.do(keeper)
		did[f.name]++
		if random.IntN(2) == 0 {
			i.inSync("db-0")
		}
	}
	return did
}

func (i *instance) signal(p podStatus, s syscall.Signal) {
	_ = syscall.Kill(*p.PID, s) // it may have ended
}

// cut drops what goes to the address where a pod's replica of data-db-0 is served. What it sends itself still arrives. Where there is no
// nft, nothing happens.
func (i *instance) cut(pod string) (mend func()) {
	i.t.Helper()
	b, err := os.ReadFile(filepath.Join(i.dir, "volumes", "default", "data-db-0.json"))
	require.NoError(i.t, err)
	var object struct {
		Members []struct{ Pod, Address string }
	}
	require.NoError(i.t, json.Unmarshal(b, &object))
	for _, m := range object.Members {
		_, port, err := net.SplitHostPort(m.Address)
		if m.Pod != pod || err != nil {
			continue
		}
		table := fmt.Sprintf("remora_e2e_%d_%s", os.Getpid(), port)
		rules := fmt.Sprintf("table ip %[1]s\ndelete table ip %[1]s\ntable ip %[1]s {\n chain c { type filter hook output priority 0; ip daddr 127.0.0.1 tcp dport %[2]s drop; }\n}\n", table, port)
		mend = func() { _ = exec.Command("nft", "delete", "table", "ip", table).Run() }
		i.t.Cleanup(mend)
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(rules)
		if out, err := nft.CombinedOutput(); err != nil {
			i.t.Logf("cannot cut anybody off: %v: %s", err, out)
		}
		return mend
	}
	return func() {}
}
