package process

import (
	"io"
	"testing"
)

func TestConsoleNeverBlocks(t *testing.T) {
	r, w := io.Pipe() // nobody reads
	c := NewConsole(w)
	for range 5000 {
		c.Print("line\n")
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	c.Close()
}
