// Package fsx does random work on a volume, knows what must come of every call, and looks whether it did: one process on one file with
// every call that touches content (as Apple's fsx does), and eight processes that change names, attributes and trees (as fsstress does).
//
// The path of a run:
//
//  1. A test starts a `remora dev` of its own (dev_test.go) and, for each seed, this test binary as a worker (main_test.go).
//  2. A worker of files draws an operation (plan_test.go), does it (perform_*_test.go), does the same to its model (content_test.go),
//     and compares what is cheap; now and then, and at its end, everything (compare_test.go). It saves the model outside the volume.
//  3. A worker of names does the same with a tree (tree_test.go, names_*_test.go): the model says what each call must answer, errors
//     included. In a directory that all eight share it counts what it made and removed there (shared_test.go).
//  4. Meanwhile the test kills the sidecar with SIGKILL, if it was asked to. No worker may notice.
//  5. The volume is stopped, checked by `remora check`, mounted again and compared with the saved models.
//  6. Everything is deleted; the space that the volume uses must be what it was when it was empty.
//
// Invariants: a seed repeats its operations, whatever the sidecar does; the same workers on a plain directory (the ruler) find nothing,
// so what they find on a volume is the volume's.
package fsx
