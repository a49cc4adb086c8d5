// Package identity says who a process is, in X.509: names in certificates, the authority of dev mode that issues them, and the files
// from which they are read again while everything runs.
//
// It promises: an identity that Parse accepts is one tenant, one pod and a list of volumes, spelled in one way only; a file is replaced
// in one step, so that a reader sees the old one or the new one; a reload that finds something bad keeps what it had and says so; and
// what has expired is never handed out. It does not decide what a pod may do: that is the other side's (transport.Handler).
//
// The life of a certificate in dev mode:
//
//  1. The supervisor opens the authority (OpenCA): a key that never leaves its directory, and a bundle of roots that everybody trusts.
//  2. It issues a certificate for a pod (CA.Issue), an hour long, and writes the pod's directory (Write): identity.pem and roots.pem.
//  3. The sidecar opens the directory (Open) and asks for the certificate at each handshake (Files.TLS); files that changed are read
//     again. Connections move to the new certificate by themselves (package transport).
//  4. Two thirds into its life the supervisor issues it anew. A root is rotated by trusting the new one first (CA.Rotate).
package identity
