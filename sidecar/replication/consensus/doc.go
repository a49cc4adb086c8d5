// Package consensus is the protocol of a volume's group, without goroutines, clock or I/O: etcd's Raft library decides the order of
// entries, and the rules of DESIGN 6 decide which records of the one writer count. Whoever drives it (package replication, or a
// simulation) gives it messages, ticks and records, takes what is to be written, sent and applied, and says when a write is durable.
//
// # Names, not bytes
//
// A Raft entry carries the name of a record only. Payloads travel beside the messages that name them and are kept by the driver, so that
// a megabyte is never copied through the library, and a record has one journal frame however often it is proposed.
//
// # The path of a record
//
//  1. The owner's Append puts its name at the end of the stream: everything that was answered and is not accepted yet.
//  2. Flush proposes what is new in the stream: to Raft itself where this replica leads, else in a Propose message to the leader.
//  3. The leader takes what continues its log (tail, the acceptance state at the log's end) and ignores the rest; a ProposeAck says how
//     far it has come. Without progress, and after any change of leader, the owner proposes again from the first record that is not accepted.
//  4. Ready gives entries to write and messages to send; Wrote says that a write is durable, which lets Raft count it.
//  5. Committed entries come out of Ready in order, each with the verdict of the acceptance rule. What is accepted leaves the stream.
//
// # What is volatile
//
// Nothing here survives the process: the driver's journal does. New takes what it had: the hard state, the entries behind the checkpoint,
// and the acceptance state and members at the checkpoint.
package consensus
