// Package admission is the webhook in a cluster: a server of Kubernetes admission requests around the pure functions of package
// webhook. docs/webhook.md tells administrators about it.
//
// # The way of a pod
//
//  1. The API server sends a new pod of an opted-in namespace to /mutate-pods (pods.mutate). webhook.Inject, the same that `remora
//     inject` runs, patches the object; classes come from the cluster, and placement pins the pod to the nodes that hold its volumes.
//  2. Other webhooks may change the pod. If they do, step 1 runs again (reinvocationPolicy IfNeeded): injecting twice changes nothing
//     but what they took away.
//  3. The API server sends the result to /validate-pods (pods.validate). webhook.Verify refuses it if the sidecar is not as it
//     must be. Only now the pod has its name and UID, so only now an event says what was injected, or why not.
//  4. Workloads go to /mutate-workloads when they are written: a template whose containers mount a Remora volume gets an emptyDir of that
//     name, which the API server asks for. Then they go to /validate-workloads, so that who applies one hears at once what its pods
//     would be refused for.
//
// # Invariants
//
//   - Nothing is written but events, and none on a dry run. Volumes and classes are only read.
//   - What cannot be looked up is an error, and the pod is refused: none starts without its volumes.
//   - Every refusal names the field, the value, what is allowed, and the fix, all of them at once.
//   - A certificate is exchanged while connections stay.
package admission
