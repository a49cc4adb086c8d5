// Package journal is the log of a disk directory: one sequence of frames that all replicas in the directory share, so that
// everything which arrives during one fdatasync shares the next.
//
// It promises: what was appended before a Sync that returned nil is visited by the next Open, in order, until it is released;
// what is visited is what was appended, a prefix of it; and if bytes that were known to be synced have changed, Open says so
// instead of a shorter log. It does not know what frames mean, beyond the layout of their bodies: which Raft log they make,
// and which of them are superseded, is the caller's.
//
// The package starts no goroutine, reads no clock, and reaches the disk through Options.FS alone. The caller locks the
// directory against other processes.
//
// Lock order: Journal.maint before Journal.mu, Journal.syncing before Journal.mu; Close takes maint before syncing.
//
// FORMAT.md is the layout of the files; the outline above type Journal is why it survives crashes.
package journal
