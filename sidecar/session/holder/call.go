package holder

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Call sends one line to the socket at path and reads the answer to it, for what Config.Other answers. A *RefusedError is the other side's
// word; other errors mean that nobody answered, and the request may have been carried out or not.
func Call(ctx context.Context, path string, request, reply any) error {
	conn, err := Dial(ctx, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := line(request)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("ask %s: %w", path, err)
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxLine)
	if !lines.Scan() {
		return fmt.Errorf("ask %s: it closed the connection: %w", path, lines.Err())
	}
	var refused answer
	if err := json.Unmarshal(lines.Bytes(), &refused); err != nil {
		return fmt.Errorf("ask %s: %w", path, err)
	}
	if err := refused.err(); err != nil {
		return err
	}
	return json.Unmarshal(lines.Bytes(), reply)
}
