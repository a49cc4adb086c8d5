// Package telemetry records what Remora does: a span for every FUSE request and every group commit, metrics, and logs.
// Files are named by inode only, never by their names. docs/tracing.md has every attribute and every metric.
//
// # The path of a span
//
//  1. session calls VolumeRecorder.Begin when it has read a request: an IO from a pool, IDs from a counter, the time.
//  2. The request's way through cachefs and the log adds stages, the log record's name, and links, all into the IO.
//  3. End takes the time, counts the request in the metrics (atomics, whatever the sampling), and only now decides
//     whether the span is kept: the result and the duration are known.
//  4. A kept record is copied into the ring, a bounded queue. If the ring is full, the record is dropped and counted.
//     Up to here nothing allocates, blocks on I/O, or makes a system call; it takes about 0.15 us, half of it three readings of the clock.
//  5. The exporter's goroutine takes batches from the ring, turns every record into a root span and one child per
//     stage, encodes them as OTLP by hand, and sends them. A receiver that is away is tried again with growing pauses,
//     while the ring fills.
//
// # Invariants
//
//   - created = exported + sampled out + dropped + in the ring or in the batch under way, in spans, children
//     included. After Close the last two are empty.
//   - The I/O path waits for nothing but the ring's mutex, which is held for the copy of a few records.
//   - Every kept span of a request travels in one batch, so a tree is exported whole or not at all.
//
// What is no FUSE request (an admission) is a Call: a span by name, with attributes, below the span of its caller. There are few of
// them, so their names and attributes wait in a map beside the ring.
//
// Lock order: Recorder.mu, Recorder.notesMu and ring.mu are leaves; none is held while another is taken.
package telemetry
