package conformance

import "regexp"

// FSRemora is the file system with explanations of its own.
const FSRemora = "remora"

// explanation is why expectations are not met.
type explanation struct {
	fs          string         // "" is every file system on Linux
	check       *regexp.Regexp // names of checks
	expectation *regexp.Regexp
	reason      string
	used        bool // it matched something in this run
}

// explanations is the one table of what is not as POSIX, or as pjdfstest, has it. Each must explain something in a whole run, and all
// that it matches must fail.
func explanations() []explanation {
	return []explanation{
		{check: re(`times/success/lchown of nothing/.*`), expectation: re(`lstat from/file ctime stays`),
			reason: "Linux marks ctime in every chown; POSIX lets it be when both IDs are -1"},
		{check: re(`chown/set-id/dir`), expectation: re(`lstat file mode 0555`),
			reason: "Linux takes the set-ID bits from files alone: on a directory they mean something else"},
		{check: re(`unlink/types/dir`), expectation: re(`unlink dir = EPERM`),
			reason: "unlink(2) of a directory is EISDIR on Linux"},
		{fs: "xfs", check: re(`create/device/largest numbers/.*`), expectation: re(`.*`),
			reason: "XFS keeps 14 bits of a major and 18 of a minor device number"},
		{fs: "xfs", check: re(`symlink/target/4095 bytes`), expectation: re(`.*`),
			reason: "XFS keeps targets of up to 1023 bytes"},
		{fs: FSRemora, check: re(`times/success/read(link)?/.*`), expectation: re(`lstat from/file atime is marked`),
			reason: "reading never sets atime (docs/semantics.md)"},
		{fs: FSRemora, check: re(`chmod/set-id/.* 6767 by 65533:65533,65534`), expectation: re(`f?l?stat.* mode 2767`),
			reason: "a set-group-ID bit without execution by the group means nothing; FUSE tells only the first of the caller's groups"},
	}
}

func re(s string) *regexp.Regexp { return regexp.MustCompile("^(?:" + s + ")$") }

// ofFileSystem returns the explanations that count for it.
func ofFileSystem(fs string) []*explanation {
	var all []*explanation
	for _, e := range explanations() {
		if e.fs == "" || e.fs == fs {
			all = append(all, &e)
		}
	}
	return all
}

// explanation returns the first one of an expectation, or nil.
func (s *suite) explanation(check, expectation string) *explanation {
	for _, e := range s.explanations {
		if e.check.MatchString(check) && e.expectation.MatchString(expectation) {
			e.used = true
			return e
		}
	}
	return nil
}

// unusedExplanations makes failures of explanations that match nothing.
func (s *suite) unusedExplanations() {
	for _, e := range s.explanations {
		if !e.used {
			s.report.Failures = append(s.report.Failures, Failure{Check: "explained.go",
				Expectation: e.check.String() + " " + e.expectation.String(), Got: "matches no expectation"})
		}
	}
}
