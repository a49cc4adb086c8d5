// Package replication is the log of the volumes on a disk directory: it implements cachefs.Log for the owner and applies what is
// accepted to the replica's store. A group has one replica (core.go) or several (peers.go, package consensus); epochs, names, bindings and
// acceptance are the same.
//
// # The path of a record in a group of one
//
//  1. Group.Append writes its payload frame to the journal, unsynced. The owner answers the kernel now. Large new content goes into the
//     arena instead, and the frame names where (place.go).
//  2. Disk.commit (run by whoever waits in Group.Wait, or by the background after Config.MaxDelay) writes a binding frame for all
//     records of all groups that have none, and syncs what was placed and then the journal, once. What arrives meanwhile shares the next sync.
//  3. core.synced: the bound records are committed, and accepted if they are next in their epoch. Waiters go on.
//  4. Group.apply gives them to the store, in order, many at a time, then tells the owner (OnApplied) that the overlay may drop them.
//  5. Group.checkpoint, every Config.CheckpointBytes of journal: the store is made durable, its position is written to the replica's
//     superblock, and journal segments and slots below it are given back.
//
// # In a group of several
//
// process takes what consensus.Core wants done: messages go out with the records that they name (wire.go), entries and payloads into the
// journal (writeEntries), and what is committed to the apply loop (takeCommitted). Whoever syncs the journal calls durable, which lets the
// core count it. A peer's message comes in by Receive, or by Deliver and Disk.Commit, which syncs and answers for many at once; time by tick.
// What goes out is sent when Group.mu is given back (unlock). docs/replication.md follows one write through three replicas.
//
// # What a crash leaves
//
// The death of the process leaves everything that was appended: the page cache has it. A power cut leaves at least everything that
// Wait acknowledged. Open reads the journal once, applies what is bound (a group of one has committed its whole log), and keeps the
// gap-free payloads behind it: Recover proposes them again, unchanged, before a new epoch begins. Of a group of several, what is bound
// and not known to be committed goes back into Raft's log instead (rejoin.go).
//
// # Locks
//
// Group.applying > space.mu > Disk.mu > Group.mu > Group.guards; none of the last four is held over a sync. Group.placing, above Group.mu,
// is: of the arena. Disk.committing is true while somebody is in the journal's sync: whoever else needs one waits until it has ended. The
// apply loop holds no lock while it is in the store.
package replication
