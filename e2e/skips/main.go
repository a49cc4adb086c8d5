// Command skips reads the JSON of a test run (go test -json) and lists the tests that were skipped, with their reasons. With
// CI=true a skipped test is a failure: CI has root, FUSE and every program, so a skip there means that something is not tested.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: skips FILE: the JSON of a test run")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Getenv("CI") == "true"); err != nil {
		fmt.Fprintln(os.Stderr, "skips:", err)
		os.Exit(1)
	}
}

func run(file string, strict bool) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	sum, err := read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, s := range sum.skips {
		fmt.Printf("skipped: %s.%s: %s\n", s.pkg, s.test, s.reason)
	}
	switch {
	case sum.ran == 0:
		return fmt.Errorf("%s: no test ran", file)
	case strict && len(sum.skips) > 0:
		return fmt.Errorf("%d tests were skipped; with CI=true every test must run", len(sum.skips))
	}
	return nil
}

type summary struct {
	ran   int // tests that ended, skipped ones included
	skips []skip
}

type skip struct{ pkg, test, reason string }

// event is one line of `go test -json`; see `go doc test2json`.
type event struct{ Action, Package, Test, Output string }

// read takes the events in order. A test's reason is what it printed last, without its file and line.
func read(r io.Reader) (summary, error) {
	var sum summary
	said := map[[2]string]string{}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(strings.TrimSpace(string(line))) > 0 {
			var e event
			if err := json.Unmarshal(line, &e); err != nil {
				return sum, fmt.Errorf("line %.60q: %w", line, err)
			}
			sum.add(e, said)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return sum, err
		}
	}
	slices.SortFunc(sum.skips, func(a, b skip) int {
		return strings.Compare(a.pkg+"."+a.test, b.pkg+"."+b.test)
	})
	return sum, nil
}

func (s *summary) add(e event, said map[[2]string]string) {
	if e.Test == "" {
		return // the package itself; "skip" there means that it has no tests
	}
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "output":
		if text := strings.TrimSpace(e.Output); text != "" && !strings.HasPrefix(text, "---") && !strings.HasPrefix(text, "===") {
			said[key] = text
		}
	case "pass", "fail":
		s.ran++
	case "skip":
		s.ran++
		s.skips = append(s.skips, skip{e.Package, e.Test, said[key]})
	}
}
