// Package telemetry records what Remora does: a span for every FUSE request and every group commit, metrics, and logs.
package telemetry
