package webhook

import (
	"bytes"
	"encoding/json"
	"regexp"
)

// segment is one document of a file with what stands around it. The segments of a file, put together, are the file.
type segment struct {
	// pre is what stands before the content and passes as it is: byte order mark, blank lines, comments, directives, the
	// separator. trail is what stands after it: blank lines, comments at the margin, "..." and what follows.
	pre, body, trail []byte
	// inline says that the content begins on the line of the separator, which is then part of body.
	inline bool
	// directives are the lines of pre that begin with %.
	directives []byte
	// number counts the documents of the file from 1; line is that of body's first byte, from 1.
	number, line int
}

// split cuts a file at its document markers. In YAML a line that begins with "---" or "..." and a blank is always a marker:
// block scalars of a mapping are indented, and quoted ones must not hold such a line. So lines are enough to know.
func split(data []byte) []segment {
	s := splitter{}
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n') + 1
		if n == 0 {
			n = len(data)
		}
		s.line(data[:n])
		data = data[n:]
	}
	s.flush()
	return s.segments
}

type splitter struct {
	segments []segment
	current  segment
	// before is the number of lines before the current one.
	before, documents int
	// marked: the current segment has its "---"; ended: it has its "...".
	marked, ended bool
}

var byteOrderMark = []byte("\xef\xbb\xbf")

func (s *splitter) line(l []byte) {
	text := l
	if s.before == 0 {
		text = bytes.TrimPrefix(l, byteOrderMark)
	}
	c := &s.current
	blank := isBlankOrComment(text)
	switch {
	case isMarker(text, "---"):
		if s.marked || len(c.body) > 0 || s.ended || len(c.directives) == 0 {
			s.flush()
		}
		s.marked = true
		s.separator(l, text)
	case isMarker(text, "...") && !s.ended:
		s.ended = true
		c.trail = append(c.trail, l...)
	case s.ended && blank:
		c.trail = append(c.trail, l...)
	case s.ended:
		s.flush()
		s.content(l, text)
	case blank && len(c.body) == 0:
		c.pre = append(c.pre, l...)
	case blank && text[0] != ' ' && text[0] != '\t':
		c.trail = append(c.trail, l...)
	default:
		s.content(l, text)
	}
	s.before++
}

// separator begins a document, which may have content on the same line.
func (s *splitter) separator(l, text []byte) {
	c := &s.current
	if isBlankOrComment(text[len("---"):]) {
		c.pre = append(c.pre, l...)
		return
	}
	c.inline = true
	s.body(l)
}

func (s *splitter) content(l, text []byte) {
	c := &s.current
	if !s.marked && len(c.body) == 0 && text[0] == '%' {
		c.directives = append(c.directives, text...)
		c.pre = append(c.pre, l...)
		return
	}
	if len(c.body) == 0 {
		mark := len(l) - len(text)
		c.pre = append(c.pre, l[:mark]...)
		l = l[mark:]
	}
	s.body(l)
}

func (s *splitter) body(l []byte) {
	c := &s.current
	if len(c.body) == 0 {
		c.line = s.before + 1
	}
	c.body = append(append(c.body, c.trail...), l...)
	c.trail = nil
}

func (s *splitter) flush() {
	c := s.current
	c.keepBlankLines()
	if len(c.body) > 0 || s.marked {
		s.documents++
	}
	if len(c.pre)+len(c.body)+len(c.trail) > 0 {
		c.number = s.documents
		if parts := splitJSON(c); len(parts) > 1 {
			s.segments = append(s.segments, parts...)
			s.documents += len(parts) - 1
		} else {
			s.segments = append(s.segments, c)
		}
	}
	s.current, s.marked, s.ended = segment{}, false, false
}

var keepsBlankLines = regexp.MustCompile(`[|>][0-9]?\+`)

// keepBlankLines takes the blank lines after the content into it where a block scalar that keeps them (|+) may be the last.
func (c *segment) keepBlankLines() {
	if !keepsBlankLines.Match(c.body) {
		return
	}
	blank := len(c.trail) - len(bytes.TrimLeft(c.trail, " \t\r\n"))
	blank = bytes.LastIndexByte(c.trail[:blank], '\n') + 1
	c.body, c.trail = append(c.body, c.trail[:blank]...), c.trail[blank:]
}

// splitJSON cuts a stream of JSON objects, which need no separator, at the objects.
func splitJSON(c segment) (parts []segment) {
	if c.inline || len(c.body) == 0 || c.body[0] != '{' && bytes.TrimLeft(c.body, " \t")[0] != '{' {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(c.body))
	start := int64(0)
	for d.More() {
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil
		}
		part := segment{number: c.number + len(parts)}
		between := c.body[start : d.InputOffset()-int64(len(value))]
		part.pre, part.body = between, c.body[d.InputOffset()-int64(len(value)):d.InputOffset()]
		part.line = c.line + bytes.Count(c.body[:d.InputOffset()-int64(len(value))], []byte("\n"))
		parts, start = append(parts, part), d.InputOffset()
	}
	if d.InputOffset() > start && len(bytes.TrimSpace(c.body[start:])) > 0 {
		return nil
	}
	if len(parts) > 0 {
		parts[0].pre = append(bytes.Clone(c.pre), parts[0].pre...)
		parts[len(parts)-1].trail = append(bytes.Clone(c.body[start:]), c.trail...)
	}
	return parts
}

// isMarker says whether a line is the marker: the marker, then a blank or the line's end.
func isMarker(l []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(l, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

func isBlankOrComment(l []byte) bool {
	l = bytes.TrimLeft(l, " \t\r\n")
	return len(l) == 0 || l[0] == '#'
}

// bytes puts the segment together again, with another body.
func (c *segment) bytes(body []byte) []byte {
	return bytes.Join([][]byte{c.pre, body, c.trail}, nil)
}
