package telemetry

import (
	"io"
	"log/slog"
)

// LogFormat is "text" or "json".
type LogFormat string

const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Logger writes to w lines at or above level.
func Logger(w io.Writer, format LogFormat, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
