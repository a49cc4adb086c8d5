package store

import (
	"fmt"
	"log/slog"
)

// quiet passes Pebble's errors on and drops its chatter.
type quiet struct {
	l    *slog.Logger
	disk *lastStop
}

func (q quiet) Infof(string, ...any) {}
func (q quiet) Errorf(format string, args ...any) {
	q.l.Error("metadata store", "err", fmt.Sprintf(format, args...))
}

// Fatalf returns where the disk has failed Pebble: lastStop sees to it that nothing is written from then on. It ends the process while the
// store is being opened, because Pebble's Open waits for a flush that it tries again for ever, and for anything else, which is a
// bug: nobody knows what Pebble would do next.
func (q quiet) Fatalf(format string, args ...any) {
	open, err := q.disk.failure()
	if err != nil && open {
		q.Errorf(format, args...)
		return
	}
	if err != nil {
		q.l.Error("the process ends: the metadata of a replica cannot be opened, because the disk failed; look at the disk; the next start begins "+
			"from what is there, and nothing acknowledged is lost", "err", err)
	}
	panic(fmt.Sprintf("metadata store: "+format, args...))
}
