package telemetry

import (
	"context"
	"fmt"
	"os"
)

// fileSink appends OTLP JSON lines to a file, each with one write. When the file has limit bytes it becomes PATH.1, in
// place of an older one, so that both together stay below twice the limit and one batch. The file belongs to one
// process at a time. It goes past the disk seam: nothing that Remora promises depends on it.
type fileSink struct {
	path  string
	limit int64
	file  *os.File
	size  int64
}

func openFileSink(path string, limit int64) (*fileSink, error) {
	s := &fileSink{path: path, limit: limit}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("telemetry: open file of spans: %w", err)
	}
	return s, nil
}

func (s *fileSink) open() error {
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	s.file, s.size = f, info.Size()
	return nil
}

func (s *fileSink) encode(dst []byte, b *batch) []byte { return appendJSON(dst, b) }

func (s *fileSink) send(_ context.Context, payload []byte) (rejected uint64, err error) {
	if s.size > 0 && s.size+int64(len(payload)) > s.limit {
		if err := s.rotate(); err != nil {
			return 0, fmt.Errorf("rotate file of spans: %w", err)
		}
	}
	if s.file == nil {
		if err := s.open(); err != nil {
			return 0, fmt.Errorf("open file of spans: %w", err)
		}
	}
	n, err := s.file.Write(payload)
	if err != nil {
		if n > 0 { // a full disk: take back the torn line. If that fails too, a reader finds one bad line.
			_ = s.file.Truncate(s.size)
		}
		return 0, fmt.Errorf("write file of spans: %w", err)
	}
	s.size += int64(n)
	return 0, nil
}

func (s *fileSink) rotate() error {
	if err := s.close(); err != nil {
		return err
	}
	s.size = 0
	// Only a file of our making is moved: the path may name a device or a pipe.
	info, err := os.Lstat(s.path)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	return os.Rename(s.path, s.path+".1")
}

func (s *fileSink) close() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}
