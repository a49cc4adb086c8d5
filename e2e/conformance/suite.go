package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options say where and what to check.
type Options struct {
	Dir        string // an empty directory of the file system, root's, that every user may enter
	FileSystem string // whose explanations count beside Linux's: FSRemora, or another name, which has none
	Only       string // the checks whose names begin so; all if empty
	Slow       bool   // also those that take seconds: 65,000 links
	Small      bool   // the file system is empty and small: check what a full one answers, and nothing else
}

// Report is what a run found.
type Report struct {
	Expectations int       // comparisons made
	Explained    int       // of them: not as POSIX wants, for a reason in the table
	Failures     []Failure // unexplained ones, explained ones that were met, and explanations that explain nothing
}

// Failure is one expectation that was not met.
type Failure struct{ Check, Expectation, Got string }

func (f Failure) String() string { return f.Check + ": " + f.Expectation + ": " + f.Got }

// Run makes the checks. It needs root. The error says why they could not be made; what the file system did wrong is in the report.
func Run(o Options) (Report, error) {
	var rep Report
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		lockThread()
		rep, err = run(o)
	}()
	<-done
	return rep, err
}

// lockThread gives the goroutine a thread that it never gives back: the thread ends with it, and its IDs and its umask do.
func lockThread() { runtime.LockOSThread() }

func run(o Options) (rep Report, err error) {
	if os.Geteuid() != 0 {
		return Report{}, errors.New("only root can act as several users")
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // umask and working directory of this thread
		return Report{}, fmt.Errorf("a thread with a umask of its own: %w", err)
	}
	unix.Umask(0)
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, unix.Chdir("/")) }() // until the thread ends, which nobody waits for, it would keep the mount busy
	s := &suite{options: o, dir: dir, explanations: ofFileSystem(o.FileSystem)}
	all := checks()
	if o.Small {
		all = fullChecks()
	}
	for _, c := range all {
		if !strings.HasPrefix(c.name, o.Only) || c.slow && !o.Slow {
			continue
		}
		if err := s.check(c.name, c.run); err != nil {
			return s.report, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if o.Only == "" && !o.Small {
		s.unusedExplanations()
	}
	return s.report, nil
}

// suite is a run. All of it belongs to one thread.
type suite struct {
	options Options
	dir     string
	user    user // whose effective IDs the thread has
	report  Report
	serial  int // numbers the directories

	explanations []*explanation
}

// check runs one check, or a part of one, in an empty directory.
func (s *suite) check(name string, run func(c *check)) error {
	s.become(root)
	s.serial++
	dir := filepath.Join(s.dir, strconv.Itoa(s.serial))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	c := &check{suite: s, name: name, dir: dir}
	c.actor = actor{check: c, user: root}
	run(c)
	s.become(root)
	if err := unix.Chdir(s.dir); err != nil {
		return err
	}
	return errors.Join(c.broken, os.RemoveAll(dir))
}

// check is a check that runs. Its own actor is root.
type check struct {
	actor
	suite  *suite
	name   string
	dir    string // absolute; relative names are in it
	broken error  // why it could not do its work
}

// as lets another user act.
func (c *check) as(u user) actor { return actor{check: c, user: u} }

// part runs a part of the check in an empty directory of its own.
func (c *check) part(name string, run func(c *check)) {
	err := c.suite.check(c.name+"/"+name, run)
	c.must(errors.Join(err, unix.Chdir(c.dir)))
}

// each runs a part of the check for each type of file.
func (c *check) each(kinds []kind, run func(c *check, k kind)) {
	for _, k := range kinds {
		c.part(k.String(), func(c *check) { run(c, k) })
	}
}

// must is for preparations: without them the check means nothing.
func (c *check) must(err error) {
	if err != nil && c.broken == nil {
		_, file, line, _ := runtime.Caller(1)
		c.broken = fmt.Errorf("%s:%d: %w", filepath.Base(file), line, err)
	}
}

// result counts an expectation. got is for people.
func (c *check) result(ok bool, expectation, got string) {
	s := c.suite
	s.report.Expectations++
	e := s.explanation(c.name, expectation)
	switch {
	case ok && e == nil:
		return
	case ok:
		got = "is met, but explained.go says: " + e.reason
	case e != nil:
		s.report.Explained++
		return
	}
	s.report.Failures = append(s.report.Failures, Failure{Check: c.name, Expectation: expectation, Got: got})
}

// returned counts what a call returned: nil is success, otherwise any of want is right.
func (c *check) returned(err error, what string, want []error) {
	if len(want) == 0 {
		c.result(err == nil, what, got(err))
		return
	}
	names := make([]string, len(want))
	for i, w := range want {
		names[i] = name(w)
	}
	ok := slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) })
	c.result(ok, what+" = "+strings.Join(names, " or "), got(err))
}

func got(err error) string { return "got " + name(err) }

func name(err error) string {
	var errno syscall.Errno
	if err == nil {
		return "success"
	} else if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}
