// Package holder makes FUSE mounts and keeps what must outlive a sidecar: the descriptor of the connection, the kernel's INIT
// request and the first reply to it. `remora dev` and the node plugin are holders; a sidecar is a client.
//
// It promises that a mount survives the death of its sidecar, that at most one sidecar at a time is given a connection, and
// that no call of it hangs on a mount that nobody serves: nothing here ever looks at a mount with stat, open or readdir, all
// that is known about one comes from /proc/self/mountinfo. It does not restart anything: its owner does.
//
// # Protocol
//
// JSON lines over a stream socket, one connection per sidecar process and volume. The client speaks first, and every line of it
// gets one line of answer:
//
//	{"op":"attach","volume":"data"}     {"session":"<hex>","state":"Fresh","init":"","reply":""} and the descriptor (SCM_RIGHTS)
//	{"op":"init","init":"<base64>",     {"ok":true}
//	 "reply":"<base64>"}
//	{"op":"ready"}                      {"ok":true}
//	{"op":"lost"}                       {"ok":true}
//	{"op":"offer","volume":"data",      {"ok":true}
//	 "session":"<hex>","init":"..",
//	 "reply":".."} and the descriptor
//	anything that is refused            {"error":"why"}
//
// On a Fresh mount the sidecar reads INIT from the descriptor, sends it and its own reply with "init", writes the reply to the
// kernel when that is answered, and says "ready" before it reads the next request. On a Ready mount it adopts the stored INIT
// and reply, and says "ready" when it begins to serve. A closed connection means, in either direction, that the other side is
// gone. A sidecar whose holder is gone for good must exit: another holder may be about to make the mount anew. The node plugin comes
// back: after its own restart it knows the mounts (Adopt) but has no descriptors, and sidecars that went on serving bring theirs with
// "offer". An "attach" before that means that the sidecar died with the holder, and every descriptor of the connection with it: the mount
// is made anew.
//
// A sidecar that dies between "attach" and "ready" on a mount that was not Ready leaves a connection of which nobody knows
// whether INIT was read or answered. Nobody was served through it either, so the server aborts it and mounts again, with a new
// session ID, before it answers the next "attach".
//
// "lost" says that the connection cannot be served any more: the kernel has ended it (a read gave ENODEV), because somebody unmounted
// or aborted it, or it cannot send again what a predecessor had read (no NOTIFY_RESEND). The next "attach" gets a new mount then, too.
//
// Config.Other answers what else a sidecar asks for on the same socket.
//
// Lock order: Server.mu, then Mount.mu.
package holder
