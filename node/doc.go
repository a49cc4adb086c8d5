// Package node is the node plugin: a CSI driver of inline ephemeral volumes that makes the FUSE mounts of the pods of one node, keeps their
// descriptors while sidecars come and go, and gives each pod a socket of its own for its descriptors, its Volume objects and its keys, and
// the disk directories of its volumes. It is the only privileged part of Remora.
//
// # The life of a pod's volumes
//
//  1. The kubelet publishes the pod's volumes, one call each and in any order. The first call admits the pod (admit.go): the API server is
//     asked whether the pod is what the kubelet says, on this node, injected, in a namespace that opted in; then each of its Volume objects
//     is found or made, and claimed for the pod by compare-and-swap (claim.go). A Volume whose replica is on another node, or whose owner
//     lives, is not claimed: the call fails, the kubelet tries again, and the event says why.
//  2. kind "mount": a FUSE mount at the target path. Nobody serves it yet. kind "disks": a small read-only tree at the target path that
//     shows run/, with the pod's socket, and the disk directories that the Volume objects name, and nothing else. kind "local": a directory
//     of the node's disk, bound.
//  3. The sidecar starts, asks on the socket which Volumes it serves, takes their descriptors (package holder) and keys, and serves. When it
//     dies, the descriptor is kept; its successor gets it. A mount that was served, and is not for longer than the hang budget, is aborted,
//     with an event: programs get errors instead of waiting for ever. A pod that is being deleted gets a short budget.
//  4. The kubelet unpublishes: the mount is detached and aborted, never looked at. Directories outlive pods. With its last volume the pod's
//     socket goes.
//
// # When the plugin itself restarts
//
// Mounts stay. What a successor must know is in <plugin directory>/state, a file per pod. It listens on every pod's socket again, and the
// sidecars, which went on serving, bring their descriptors back. A sidecar that died meanwhile took the last descriptor with it: the
// connection is at its end, the next sidecar gets a new mount, and an event tells that the containers have to be restarted to see it.
//
// # What a pod cannot do
//
// Nothing that a tenant writes decides what it gets: attributes of the volume are only compared with what the API server says of the pod.
// What the pod's socket takes is checked against the pod (desk.go). Paths are walked without links (package host).
//
// Lock order: pod.mu, node.mu, pod.live.
package node
