package webhook

import (
	"fmt"
	"strings"

	"github.com/remora-storage/remora/webhook/spec"
)

// Error is one thing to change in one document.
type Error struct {
	// File is the name that the caller gave; Document counts from 1; Line is where the document's content begins.
	File     string
	Document int
	Line     int
	// Object is KIND/NAME, with the place in a List before it; empty where the document is no object.
	Object  string
	Problem spec.Problem
}

// Error is one line: where, and what to change.
func (e Error) Error() string {
	where := fmt.Sprintf("%s: document %d (line %d): ", e.File, e.Document, e.Line)
	if e.Object != "" {
		where += e.Object + ": "
	}
	return where + e.Problem.String()
}

// Errors are all the problems of an input, in its order.
type Errors []Error

// Error has one line for each problem.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}
