// Package powercut cuts the power of real file systems, in the middle of a volume's life, and looks at what is left. Its tests
// promise nothing about real disks' firmware; they show what ext4 and XFS, on a disk that keeps its promises and no more, leave of
// a volume.
//
// # The disk
//
// A child process (diskserver_test.go) serves one file over FUSE, a loop device makes a disk of it, and a file system is mounted
// on that. The server writes down everything that it is asked to write and each flush, in order: the log. It can fail writes and
// flushes, and forget what was not flushed.
//
// # One run
//
//  1. A worker process runs a random history (package replicationtest) in a directory of the file system, and notes each state
//     before it begins and each fsync that returned, with the length of the disk's log at that moment.
//  2. A cut takes a position in the log. What a flush before it covers is on the disk. Of every later write the dice decide: it is
//     there, or not, or some of its 512-byte sectors are; writes that were in flight together may land in either order.
//  3. The image that this makes is mounted, a volume is opened from it, and it must have a state of the history, not older than
//     what was acknowledged at the position, and not younger than what had begun. It then goes on: more steps, and an fsync.
//  4. Now and then an image is the disk of the next run, so that recovery itself is cut.
//
// Everything happens in a mount namespace of its own, on loop devices that go with their mounts: whatever ends the tests, the
// kernel cleans up.
package powercut
