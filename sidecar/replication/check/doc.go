// Package check looks at replicas that nobody serves and says what is wrong with them, and prints what they hold. It uses the product's
// own decoders and its own recovery, and promises not to change a byte: recovery runs on an overlay whose writes stay in memory.
//
// # The path of a check
//
//  1. find: the directory that was named leads to disk directories, and in each to its replicas.
//  2. The disk directory's lock is taken, shared: a sidecar cannot start meanwhile. One that is served is a finding and not read.
//  3. Superblocks: both copies of the disk's and of each replica's.
//  4. Journal: every frame (journal.Scan), every record in it, by which replica it is.
//  5. For each replica: the store is opened on the overlay, every block of its metadata files is read, and the log above the checkpoint
//     is applied, as recovery does. The last checkpoint alone is not the state: the arena may be ahead of the metadata.
//  6. Metadata: every key decodes, and the file system is what its counts and references say (names, files).
//  7. Blobs and arena: each blob's slot, residency and seals, and every block in use against its seal.
//
// Where the journal is damaged, step 5 cannot apply it: the metadata is checked as of the last flush, which is consistent in itself,
// and the arena's blocks are not compared.
//
// Memory: about 150 bytes for an inode and 150 for a chunk, and the part of the journal that is above the checkpoint.
package check
