// Package e2e tests the binary from outside: `remora dev` on this machine, real programs on its mounts, and deaths of sidecars and
// supervisors in between. It knows what a user knows: commands, files below DIR, sockets, and nothing of the code.
//
// The tests need root and /dev/fuse. They never touch a mount from their own process: a mount that nobody serves blocks whoever
// looks at it, so all looking is done by children with a time limit (see worker), and when one does not end, the FUSE connections
// of its instance are aborted.
package e2e
