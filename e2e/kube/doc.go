// Package kube tests Remora in a real Kubernetes, from outside: kubectl, and a privileged pod on every node ("hands") that kills
// processes and reads mount tables. `make e2e` runs it on the cluster of `make cluster`; with KUBECONFIG set it runs on that
// cluster, whose nodes need the images (docs/cluster.md).
//
//	go test -tags kube ./e2e/kube -v -run TestStatefulSet
package kube
