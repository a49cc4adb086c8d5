package store

import (
	"fmt"
	"log/slog"
)

// quiet passes Pebble's errors on and drops its chatter.
type quiet struct {
	l    *slog.Logger
	disk *patient
}

func (q quiet) Infof(string, ...any) {}
func (q quiet) Errorf(format string, args ...any) {
	q.l.Error("metadata store", "err", fmt.Sprintf(format, args...))
}

// Fatalf ends the process, but where Close has cut short a wait for space: then Pebble goes back with the error.
func (q quiet) Fatalf(format string, args ...any) {
	q.disk.mu.Lock()
	left := q.disk.waits != nil && q.disk.closed()
	q.disk.mu.Unlock()
	if left {
		q.Errorf(format, args...)
		return
	}
	panic(fmt.Sprintf("metadata store: "+format, args...))
}
