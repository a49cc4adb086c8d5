package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var stormKills = flag.Int("kills", 20, "how often TestStorm kills the sidecar; `make storm KILLS=N`")

// storm is everything at once on one volume: pgbench, random file I/O, processes that change names, and a probe that looks how long
// the longest pause is.
type storm struct {
	t      *testing.T
	i      *instance
	seed   uint64
	stop   string // a file: its being there ends the workers
	names  string // directory of the processes that change names
	namers []*child
	others []*child
	probe  *child
	pg     *postgres
	bench  chan int // how many transactions were done
}

// startStorm starts the load. It goes on until finish.
func startStorm(t *testing.T, i *instance) *storm {
	t.Helper()
	s := &storm{t: t, i: i, seed: rand.Uint64(), stop: filepath.Join(tempDir(t), "stop"), bench: make(chan int, 1)}
	t.Logf("seed %d", s.seed)
	mount := i.mount("db-0")
	s.names = filepath.Join(mount, "names")
	s.pg = newPostgres(i)
	s.pg.program("initdb", "-D", s.pg.data, "--auth=trust", "--username=postgres").run(2 * time.Minute)
	s.pg.start()
	s.pg.program("pgbench", "-i", "-q", "-s", "5").run(3 * time.Minute)
	i.program("", nil, "mkdir", "-p", s.names+"/a", s.names+"/b", mount+"/r0", mount+"/r1").run(time.Minute)
	i.program("", nil, "sh", "-c", `echo 0 >"$0"/count`, s.names).run(time.Minute)
	for p := range 8 {
		s.namers = append(s.namers, i.worker("", "names", s.names, s.stop, strconv.Itoa(p), strconv.FormatUint(s.seed+uint64(p), 10)).start())
	}
	for n := range 2 {
		s.others = append(s.others, i.worker("", "random", mount+"/r"+strconv.Itoa(n), s.stop, strconv.FormatUint(s.seed+uint64(n), 10)).start())
	}
	s.probe = i.worker("", "probe", filepath.Join(mount, "probe"), s.stop).start()
	go s.runBench() // ends with the file stop
	return s
}

// runBench runs pgbench again and again until the file stop is there.
func (s *storm) runBench() {
	done := 0
	defer func() { s.bench <- done }()
	for {
		if _, err := os.Stat(s.stop); err == nil {
			return
		}
		c := s.pg.program("pgbench", "-n", "-c", "4", "-j", "2", "-t", "100", "--max-tries=1")
		if err := c.cmd.Run(); err != nil || !strings.Contains(c.out.String(), "number of failed transactions: 0 (0.000%)") {
			s.t.Errorf("pgbench: %v\n%s", err, c.out.String())
			return
		}
		_, after, _ := strings.Cut(c.out.String(), "number of transactions actually processed: ")
		n, err := strconv.Atoi(strings.Split(after, "/")[0])
		if err != nil {
			s.t.Errorf("pgbench: %v\n%s", err, c.out.String())
			return
		}
		done += n
	}
}

// alive fails if a worker has ended: a call failed that must not.
func (s *storm) alive() {
	s.t.Helper()
	for _, c := range append(append([]*child{s.probe}, s.namers...), s.others...) {
		select {
		case <-c.done:
			require.FailNow(s.t, "an application got an error", "seed %d: %s: %v\n%s", s.seed, c.name, c.err, c.out.String())
		default:
		}
	}
	require.False(s.t, s.t.Failed())
}

// finish stops the load and compares everything with what the processes know.
func (s *storm) finish() {
	t := s.t
	t.Helper()
	s.alive()
	require.NoError(t, os.WriteFile(s.stop, nil, 0o644))
	for _, c := range s.others {
		t.Log(strings.TrimSpace(c.ok(time.Minute)))
	}
	var want []string
	calls, counted := 0, 0
	for _, c := range s.namers {
		said := lines(c.ok(time.Minute))
		calls += number(t, c.out.String(), "calls ")
		counted += number(t, c.out.String(), "counted ")
		want = append(want, said[:len(said)-2]...)
	}
	slices.Sort(want)
	s.probe.ok(time.Minute)
	done := <-s.bench
	t.Logf("%d transactions of pgbench, %d calls that change names, %d files at the end", done, calls, len(want))
	same := func(when string) {
		t.Helper()
		require.Equal(t, want, names(s.i.worker("", "describe", s.names).run(time.Minute)), "seed %d, %s", s.seed, when)
		require.Equal(t, strconv.Itoa(counted)+"\n", s.i.program("", nil, "cat", s.names+"/count").run(time.Minute), when)
		require.Equal(t, strconv.Itoa(done), s.pg.query("SELECT count(*) FROM pgbench_history"), when)
	}
	same("as the kernel has it")
	s.pg.query("CREATE EXTENSION IF NOT EXISTS amcheck")
	s.pg.program("pg_amcheck", "--all", "--heapallindexed", "--parent-check").run(2 * time.Minute)
	s.pg.stop()
	time.Sleep(300 * time.Millisecond) // what was closed last is forgotten by now
	used := s.i.pod("db-0").Volumes[0].Used
	s.i.stop()
	s.i.again()
	require.Equal(t, used, s.i.pod("db-0").Volumes[0].Used, "files that nobody had open and that had no name took space until the mount ended")
	s.pg.start()
	same("after a new start")
	s.pg.stop()
}

// restarts waits until the supervisor has said n times that the volume is served again, and returns what it said.
func (i *instance) restarts(n int) []restart {
	i.t.Helper()
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if all := servedAgain.FindAllStringSubmatch(i.out.String(), -1); len(all) >= n {
			return parseRestarts(i.t, all)
		}
	}
	require.FailNow(i.t, "the volume is not served again", i.out.String())
	return nil
}

// restart is a time in which nobody served.
type restart struct {
	pid   int           // of who served then
	until time.Time     // when it served
	away  time.Duration // since the one before was gone
	dying time.Duration // since that one was killed: a process ends only when its system calls do, such as an fdatasync
}

// from is when nobody served any more.
func (r restart) from() time.Time { return r.until.Add(-r.away - r.dying) }

// sinceKilled adds when the sidecars were killed, in order.
func sinceKilled(restarts []restart, kills []time.Time) []restart {
	for n := range restarts {
		r := &restarts[n]
		for _, k := range kills {
			if gone := r.until.Add(-r.away); k.Before(gone) {
				r.dying = gone.Sub(k)
			}
		}
	}
	return restarts
}

var servedAgain = regexp.MustCompile(`time=(\S+) level=INFO msg="served again" .*pid=(\d+) .*away=(\S+)`)

func parseRestarts(t *testing.T, all [][]string) []restart {
	t.Helper()
	var found []restart
	for _, m := range all {
		until, err := time.Parse(time.RFC3339Nano, m[1])
		require.NoError(t, err)
		pid, err := strconv.Atoi(m[2])
		require.NoError(t, err)
		away, err := time.ParseDuration(m[3])
		require.NoError(t, err)
		found = append(found, restart{pid: pid, until: until, away: away})
	}
	return found
}

// pauses says how long the probe waited at worst: over a restart, how much of that the restart does not explain (how long before it began
// the call was waiting already, and how long it took when somebody served again), and, to compare, without any restart.
func (s *storm) pauses(restarts []restart) string {
	s.t.Helper()
	var longest, beyond, before, after, without, away, dying time.Duration
	for _, r := range restarts {
		away, dying = max(away, r.away+r.dying), max(dying, r.dying)
	}
	for _, line := range lines(s.probe.out.String()) {
		var from, took int64
		if n, _ := fmt.Sscanf(line, "pause %d %d", &from, &took); n != 2 {
			continue
		}
		began, took2, explained := time.Unix(0, from), time.Duration(took), time.Duration(0)
		for _, r := range restarts {
			if r.until.After(began) && r.from().Before(began.Add(took2)) {
				explained += r.away + r.dying
			}
		}
		if explained == 0 {
			without = max(without, took2)
			continue
		}
		longest, beyond = max(longest, took2), max(beyond, took2-explained)
		for _, r := range restarts {
			if end := began.Add(took2); r.until.After(began) && r.from().Before(end) {
				before, after = max(before, r.from().Sub(began)), max(after, end.Sub(r.until))
			}
		}
		if took2-explained > 300*time.Millisecond {
			s.t.Logf("at %s a call took %v, %v beyond the restart", began.UTC().Format("15:04:05.000"), took2, took2-explained)
		}
	}
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	out := s.probe.out.String()
	return fmt.Sprintf("%d restarts: longest pause %v, longest restart %v (longest end of a killed process %v), longest pause beyond its restart %v (longest before one %v, after one %v); calls without a restart: "+
		"median %v, 99%% of all below %v, longest %v", len(restarts), ms(longest), ms(away), ms(dying), ms(beyond), ms(before), ms(after),
		time.Duration(number(s.t, out, "median ")).Round(time.Microsecond), ms(time.Duration(number(s.t, out, "p99 "))), ms(without))
}

// TestStorm kills the sidecar again and again under everything at once: no application gets an error, and nothing that was answered
// is lost. Now and then the next one is killed, too, before it serves.
func TestStorm(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	s := startStorm(t, i)
	r := rand.New(rand.NewPCG(s.seed, 99))
	pid, early, killed := i.served("db-0", 0), 0, []time.Time{}
	for kills := 0; kills < *stormKills; kills++ {
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond) // of work between two deaths
		said := len(servedAgain.FindAllString(i.out.String(), -1))
		killed = append(killed, time.Now())
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		if r.IntN(5) == 0 && kills+1 < *stormKills {
			if next := i.pod("db-0").PID; next != nil && *next != pid && syscall.Kill(*next, syscall.SIGKILL) == nil {
				kills++
				early++
			}
		}
		all := i.restarts(said + 1)
		if pid = all[len(all)-1].pid; syscall.Kill(pid, 0) != nil {
			pid = i.served("db-0", 0) // the early one had just begun to serve
		}
		s.alive()
	}
	restarts := i.restarts(1)
	s.finish()
	t.Logf("%d kills, %d of them before the sidecar served, %s", *stormKills, early, s.pauses(sinceKilled(restarts, killed)))
	require.NotContains(t, i.out.String(), "aborted")
}
