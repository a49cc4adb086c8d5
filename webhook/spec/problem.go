package spec

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that a person has to change. It prints as one line.
type Problem struct {
	// Key is the annotation or field, as the person wrote it.
	Key string
	// Value is what it is set to; HasValue tells an empty value from a missing one.
	Value    string
	HasValue bool
	// What is wrong, what is allowed, and what to write instead.
	What, Allowed, Fix string
}

// Error makes a Problem an error.
func (p Problem) Error() string { return p.String() }

// String is the line that a person reads: key, value, what is wrong, what is allowed, the fix.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(oneLine(p.Key))
	if p.HasValue {
		b.WriteString(": " + Quote(p.Value))
	}
	b.WriteString(": " + p.What)
	if p.Allowed != "" {
		b.WriteString("; allowed: " + p.Allowed)
	}
	if p.Fix != "" {
		b.WriteString("; fix: " + p.Fix)
	}
	return b.String()
}

// Quote quotes a value for a message: on one line, and cut where it is long.
func Quote(s string) string {
	const limit = 120
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + fmt.Sprintf("... (%d bytes)", len(s))
}

// oneLine keeps a key readable, and a message on one line whatever the key holds.
func oneLine(s string) string {
	quoted := Quote(s)
	if plain := quoted[1 : len(quoted)-1]; plain == s {
		return s
	}
	return quoted
}

// Nearest returns the candidate that s was most likely meant to be, or "" if none is near.
func Nearest(s string, candidates []string) string {
	if len(s) > 256 {
		return ""
	}
	best, bestDistance := "", len(s)/3+2
	for _, c := range candidates {
		if d := distance(strings.ToLower(s), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is Levenshtein's: the least number of bytes inserted, removed or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost = 1 + min(diagonal, row[j], row[j-1])
			}
			diagonal, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}
