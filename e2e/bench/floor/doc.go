// Package floor is the least that a FUSE daemon in Go can cost on this machine: what `bench -floor` compares with.
//
// It is a file system in memory, with the read loop, the buffers and the capabilities of sidecar/session: requests look the same to
// the kernel. All it does besides is what no daemon can leave out that keeps Remora's word: every change is appended to a file
// of zeros with one write (so that it survives the process), and fsync waits for one fdatasync of that file, which all that wait
// share. It seals nothing, has no metadata store, applies nothing, makes no checkpoint, and cannot be opened again: it
// measures, it stores nothing.
//
// What lies below: kernel passthrough, and FUSE over io_uring. Remora can use neither (docs/architecture.md, DESIGN 9).
package floor
