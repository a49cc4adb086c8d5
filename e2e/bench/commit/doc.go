// Package commit measures what a commit costs without the kernel: a volume of three replicas, each in a process of its own with a disk
// directory of its own, to which the owner writes 4 KiB and syncs, beside package quorum, which only appends the same bytes to three logs.
// Both are also measured with one copy, so that two ratios can be compared: of the volume, and of the floor on the same machine.
//
// There is nothing but a test, because programs of e2e know the binary alone. `make bench-commit` runs it in full; in `make test` it is
// short and looks only whether it works.
package commit
