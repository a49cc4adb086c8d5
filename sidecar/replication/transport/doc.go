// Package transport carries frames and bulk requests between sidecars: mutual TLS 1.3, one connection for what a process sends to a
// peer, of all groups, and others for bulk.
//
// It promises: what Receive gets is what an authorised peer of this tenant sent, whole and unchanged; Send never blocks and never
// grows beyond its bound; a frame may be lost, and frames of one connection are never reordered; nothing that arrives makes it
// panic, allocate without bound or leave a goroutine behind. It does not promise delivery: who needs it sends again (Raft and the
// owner's stream do). It does not know what frames mean, nor who the members of a group are: Handler says so.
//
// The path of a frame:
//
//  1. Send copies it, with header and checksum, into the queue of the peer's link (queue.go). A full queue, or a peer that is known to
//     be away, drops it and says so.
//  2. The link's goroutine takes the whole queue (link.go). Without a connection it dials: TLS 1.3, both certificates, the same
//     tenant (tls.go), and the peer's hello. A peer that cannot be reached costs the queue, and a back-off.
//     Queue leaves the goroutine asleep, and Flush writes in the caller's, where that needs no waiting (flush.go).
//  3. For each frame Handler.Authorize is asked whether the peer at the other end may be the replica that the frame is for: an address
//     that another pod has now gets nothing. Then everything goes out in one write of the socket (conn.go).
//  4. The other end reads the header of 48 bytes (accept.go), and refuses garbage and what is too long. Handler.Authorize says
//     whether this peer may be the replica that the frame is from; if not, the body is thrown away. Only then it is read, checked, and
//     given to Receive. When no more has come, Drained is called.
//
// Garbage ends the connection. What is wrong is counted by reason, and a line in the log, at most one in ten seconds for each reason.
//
// Half-open: the sender pings, the receiver answers pings and every 256 KiB; a sender that hears nothing, and a receiver that
// hears nothing, for Config.DeadAfter close. Certificates: a link moves to a new connection when the process's own certificate
// changed, and when half of what was left of either end's time has passed; it finishes the old one first, so nothing is lost or reordered.
// A connection ends when a certificate of either end does, or when its peer's root is no longer trusted.
//
// FORMAT.md is the layout on the wire.
package transport
