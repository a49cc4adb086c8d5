package telemetry

import "context"

type exporter struct{}

func startExporter(cfg Config, r *Recorder) (*exporter, error) { return &exporter{}, nil }

func (e *exporter) wake()                           {}
func (e *exporter) close(ctx context.Context) error { return nil }
