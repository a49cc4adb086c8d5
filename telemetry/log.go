package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// LogFormat is the form of log lines: LogText or LogJSON.
type LogFormat string

const (
	LogText LogFormat = "text" // 2026-11-21T10:00:00.000Z INFO  volume mounted volume=data-db-0
	LogJSON LogFormat = "json" // slog's JSON: time, level, msg, attributes
)

// ParseLogFormat reads "text" or "json".
func ParseLogFormat(text string) (LogFormat, error) {
	switch f := LogFormat(text); f {
	case LogText, LogJSON:
		return f, nil
	}
	return "", fmt.Errorf("log format %q is unknown; write text or json", text)
}

// Logger writes to w the lines at or above level, each with one Write. Any format but LogJSON is LogText.
func Logger(w io.Writer, format LogFormat, level slog.Leveler) *slog.Logger {
	if format == LogJSON {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(newTextHandler(w, level))
}

// textHandler writes "time LEVEL message key=value ...". slog.TextHandler writes the attributes; it is given a record
// without time and with a message that names no message, and both are left out again.
type textHandler struct {
	out   *textOut
	attrs slog.Handler
}

// textOut is shared by a handler and all that With and WithGroup derive from it.
type textOut struct {
	mu   sync.Mutex // guards line and w
	line bytes.Buffer
	w    io.Writer
}

func newTextHandler(w io.Writer, level slog.Leveler) *textHandler {
	out := &textOut{w: w}
	return &textHandler{out, slog.NewTextHandler(&out.line, &slog.HandlerOptions{Level: level, ReplaceAttr: dropBuiltIn})}
}

const noMessage = "\x00"

func dropBuiltIn(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 {
		if _, isLevel := a.Value.Any().(slog.Level); isLevel && a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		if a.Key == slog.MessageKey && a.Value.Kind() == slog.KindString && a.Value.String() == noMessage {
			return slog.Attr{}
		}
	}
	return a
}

func (h *textHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.attrs.Enabled(ctx, level)
}

func (h *textHandler) Handle(ctx context.Context, r slog.Record) error {
	bare := slog.NewRecord(time.Time{}, r.Level, noMessage, r.PC)
	r.Attrs(func(a slog.Attr) bool { bare.AddAttrs(a); return true })

	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	line := &h.out.line
	line.Reset()
	message := r.Message
	if strings.ContainsAny(message, "\n\r") { // one record, one line
		message = strconv.Quote(message)
	}
	fmt.Fprintf(line, "%s %-5s %s ", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), r.Level, message)
	if err := h.attrs.Handle(ctx, bare); err != nil {
		return err
	}
	text := bytes.TrimRight(line.Bytes(), " \n")
	_, err := h.out.w.Write(append(text, '\n'))
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &textHandler{h.out, h.attrs.WithAttrs(attrs)}
}

func (h *textHandler) WithGroup(name string) slog.Handler {
	return &textHandler{h.out, h.attrs.WithGroup(name)}
}
