// Package conformance checks what POSIX and Linux promise about the calls that name, make, change and remove files, on any file system:
// it takes a directory and returns what was not as expected. It covers what pjdfstest covers, in our own words: chmod, chown,
// ftruncate, link, mkdir, mkfifo, mknod, open, posix_fallocate, rename, rmdir, symlink, truncate, unlink, utimensat, for all types of
// files and for several users. It does not look at content beyond a few bytes, at locks, maps, attributes or what a crash leaves.
//
// The path of one expectation:
//
//  1. Run takes a thread of its own, with its own umask and working directory, and never gives it back.
//  2. Each check (the list in checks.go) runs in an empty directory, which is its working directory.
//  3. A check acts as root or, by as, as another user: the thread changes its effective IDs (actor.go) and makes the call.
//  4. What the call returned, and what lstat shows afterwards (look.go), is compared; each comparison is one expectation.
//  5. What is not as expected is looked up in the one table of explanations (explained.go). An explanation that explains nothing, or
//     an explained expectation that is met, is a failure, too.
//
// calls.go has the table of calls that most errors are checked with: a row says what must be at the path, and what it may change.
package conformance
