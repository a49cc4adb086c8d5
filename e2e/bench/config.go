package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Config is one run.
type Config struct {
	Remora  string        // the binary; it is started as `remora dev`
	Volume  string        // manifest with one pod and one volume
	Dir     string        // where both sides live: one disk; empty: a fresh folder of /var/tmp
	Against string        // what it is compared with: see againsts
	Peers   string        // with -against one and bare: where the other replicas are: disk, or tmpfs (as if each had a disk of its own)
	Target  string        // measure this directory in place of a volume; empty: start `remora dev`
	Floor   bool          // measure package floor, too
	Only    []string      // names of workloads; empty: those that are not marked extra
	All     bool          // extra workloads too
	Rounds  int           // measurements of each workload on each side
	Timed   time.Duration // of each measurement that is bounded by time
	JSON    string        // where the report goes; empty: nowhere
	Keep    bool          // leave the folder and its logs
	Out     io.Writer     // the table
	Log     io.Writer     // progress
	Args    []string      // as given, for the report
}

// againsts explains Config.Against.
const againsts = "plain (a directory), unsealed (a volume without sealing), one (a volume of one replica, against one of three), " +
	"or bare (three processes without a file system: the least that three copies cost, against three)"

func parse(args []string) (Config, error) {
	cfg := Config{Out: os.Stdout, Log: os.Stderr, Args: args}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&cfg.Remora, "remora", "bin/remora", "the binary to measure")
	flags.StringVar(&cfg.Volume, "volume", "e2e/bench/volume.yaml", "manifest with one pod and one volume")
	flags.StringVar(&cfg.Dir, "dir", "", "folder in which both sides are made (default: a fresh one in /var/tmp)")
	flags.StringVar(&cfg.Target, "target", "", "measure this existing directory in place of a volume")
	flags.StringVar(&cfg.Against, "against", "plain", "what the volume is compared with: "+againsts)
	flags.StringVar(&cfg.Peers, "peers", "disk", "with -against one and bare: where the two other replicas are: disk (all on one), or tmpfs")
	flags.BoolVar(&cfg.Floor, "floor", false, "also measure a file system in memory: the least that a FUSE daemon costs here")
	only := flags.String("only", "", "workloads, with commas: "+strings.Join(names(), ","))
	flags.BoolVar(&cfg.All, "all", false, "extra workloads too")
	flags.IntVar(&cfg.Rounds, "rounds", 3, "measurements of each workload on each side")
	seconds := flags.Float64("seconds", 4, "seconds of each measurement that is bounded by time")
	flags.StringVar(&cfg.JSON, "json", "bin/bench.json", "file for the report as JSON; empty: none")
	flags.BoolVar(&cfg.Keep, "keep", false, "leave the folder and its logs")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	cfg.Timed = time.Duration(*seconds * float64(time.Second))
	if cfg.rival() != "" {
		cfg.Volume = "e2e/bench/replication.yaml"
	}
	switch cfg.Against {
	case "unsealed":
		cfg.Volume = "e2e/bench/sealing.yaml"
	case "one", "bare":
		cfg.Volume = "e2e/bench/replication.yaml"
	}
	if *only != "" {
		cfg.Only = strings.Split(*only, ",")
	} else if cfg.Against == "bare" {
		cfg.Only = []string{"replication"} // it can do nothing else
	}
	return cfg, cfg.validate(flags.Args())
}

// rival is the directory of another file system that three replicas are compared with; empty: none.
func (cfg Config) rival() string {
	dir, ok := strings.CutPrefix(cfg.Against, "dir:")
	if !ok {
		return ""
	}
	return dir
}

func (cfg Config) validate(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q: everything is a flag, see -help", rest[0])
	}
	if cfg.Rounds < 1 {
		return fmt.Errorf("-rounds %d: at least 1", cfg.Rounds)
	}
	if !slices.Contains([]string{"plain", "unsealed", "one", "bare"}, cfg.Against) && cfg.rival() == "" {
		return fmt.Errorf("-against %q: plain, unsealed, one, bare or dir:PATH", cfg.Against)
	}
	if cfg.Peers != "disk" && (cfg.Peers != "tmpfs" || cfg.Against != "one" && cfg.Against != "bare") {
		return fmt.Errorf("-peers %q: disk, or tmpfs with -against one or bare", cfg.Peers)
	}
	if cfg.Against == "bare" && !slices.Equal(cfg.Only, []string{"replication"}) {
		return errors.New("-against bare: only with -only replication: there is no directory for anything else")
	}
	if cfg.Floor && (cfg.Against != "plain" || cfg.Target != "") {
		return errors.New("-floor: only beside a volume and a plain directory, without -against and -target")
	}
	if cfg.Timed < time.Second {
		return fmt.Errorf("-seconds %v: at least 1", cfg.Timed.Seconds())
	}
	for _, name := range cfg.Only {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("-only %q: unknown workload; known are %s", name, strings.Join(names(), ", "))
		}
	}
	return nil
}
