// Package webhook gives an annotated pod its sidecar. It is made of pure functions:
//
//  1. spec.Parse reads the pod's annotations into a Spec.
//  2. Check holds the Spec against the pod: mount paths, names, volumes that are already there.
//  3. Patch adds the sidecar, its volumes and the status annotation, or brings an earlier injection up to date.
//  4. Inject does this to whole manifests: it finds the documents, patches the pods in them, and leaves everything else
//     untouched, byte for byte.
//
// Promises: injecting twice changes nothing; all problems of all documents are reported at once; where there is one, nothing is
// written. An application's containers do not change, but for subPathExpr and a variable in privileged mode. The package does no I/O.
package webhook
