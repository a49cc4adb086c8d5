// Package cachefs is the file system of one volume, as its owner runs it: calls become records, records become state.
//
// # The path of a change
//
//  1. An operation takes FS.mu, looks at the newest state (inode and chunk caches, then the overlay, then the store) and collects
//     what changes in a change: physical key-value mutations and whole blocks with their seals.
//  2. commit names the record (epoch, incarnation, seq), with the session and unique of the request and its answer, and gives it to
//     Log.Append, which writes it to the local journal, not yet synced. If that fails, nothing has changed.
//  3. The change goes into the overlay, where every read of this owner sees it at once. FS.mu is given back; the kernel is answered.
//  4. The log syncs, accepts and applies the record to the store, then says so (OnApplied): the overlay drops it.
//  5. fsync is Log.Wait for the newest record.
//
// # Invariants
//
//   - Nothing that is not accepted reaches the store (I1): this package only ever writes through Log.Append.
//   - The newest state is overlay over store, key by key and block by block; an overlay entry leaves only when the store has it.
//   - Bytes of a block behind the end of its file are zero.
//   - Inode numbers, blob IDs and cookies are never given twice: their counters are in the record that uses them.
//
// # Locks
//
// FS.mu is the only lock here that is held across calls: it is taken before any lock of the store or the log. It is held over
// Log.Append (a write to the page cache) and Pebble's reads, never over fsync. Blocks are read from the arena without it: a block
// that changes meanwhile does not fit its seal, and the read looks again.
//
// The package knows neither FUSE, Kubernetes, Raft nor S3.
package cachefs
