// Package v1alpha1 holds the types of Remora's Kubernetes API, group remora.dev. They are shapes only: who reads a manifest
// checks it.
package v1alpha1
