// Package session serves one FUSE connection: it reads requests from a descriptor that somebody else made and keeps (package
// holder), lets go-fuse's ProtocolServer take them apart, and calls cachefs.
//
// # The path of a request
//
//  1. A worker reads a request from the descriptor. Where no other one is left waiting there, the request may wait for a disk, or all
//     have been busy for a while, one more joins them (crew.go).
//  2. ProtocolServer.HandleRequest calls the worker's method of that name (rawfs_*.go), which calls cachefs and fills in the reply.
//  3. The worker writes the reply to the descriptor. A request that made a record is then reported as answered (AnswerWritten).
//
// # Across the death of a process
//
// The first process reads INIT, stores it and its reply with the holder, and then answers. A successor replays the stored INIT into
// its own ProtocolServers, refuses the connection if its reply would be another one, and asks the kernel to send again what was not
// answered (FUSE_NOTIFY_RESEND). Such requests carry bit 63 in unique: one that had made a record gets its first answer.
// Node IDs are inode numbers and handles are 0, so the kernel's names for things mean the same to every process.
//
// A worker has its own ProtocolServer, so that its RawFileSystem knows whose request it is without a look-up, and INTERRUPT is
// answered ENOSYS, after which the kernel sends no more of them: no operation here waits for anything but a disk.
package session
