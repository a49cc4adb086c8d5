package spec

import (
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// The bounds of every volume, whatever its class allows. One chunk of a file is 1 MiB: less would be no volume.
const (
	MinSize = 1 << 20
	MaxSize = 1 << 60
)

const (
	sizeAllowed = "whole bytes from 1Mi to 1Ei as a Kubernetes quantity: a number and k, M, G, T, P, E or Ki, Mi, Gi, Ti, Pi, Ei"
	sizeExample = `write for example "20Gi"`
)

// quantityForm is Kubernetes' quantity with the exponent held to two digits: ParseQuantity works with numbers of any size, and a
// value like 1e2000000000 would keep it busy for ever.
var quantityForm = regexp.MustCompile(`^[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$`)

// ParseSize reads a size in bytes. The problem of a bad one names what is allowed and the fix; its Key is left to the caller.
func ParseSize(s string) (int64, *Problem) {
	bad := func(what, fix string) (int64, *Problem) {
		return 0, &Problem{Value: s, HasValue: true, What: what, Allowed: sizeAllowed, Fix: fix}
	}
	if s == "" {
		return bad("is empty", sizeExample)
	}
	q, err := resource.ParseQuantity(s)
	if !quantityForm.MatchString(s) || err != nil {
		return bad("is not a size", sizeFix(s))
	}
	switch {
	case q.Sign() < 0:
		return bad("is negative", positiveFix(s))
	case q.Sign() == 0:
		return bad("is zero", sizeExample)
	case q.CmpInt64(MinSize) < 0 && !isWhole(q):
		return bad("is a fraction of a byte", sizeExample)
	case q.CmpInt64(MinSize) < 0:
		return bad("is too small", `write "1Mi" or more`)
	case q.CmpInt64(MaxSize) > 0:
		return bad("is too large", `write "1Ei" or less`)
	case !isWhole(q):
		return bad("is not a whole number of bytes", sizeExample)
	}
	return q.Value(), nil
}

// isWhole says whether q has no fraction of a byte. Value rounds up.
func isWhole(q resource.Quantity) bool {
	whole := resource.NewQuantity(q.Value(), q.Format)
	return q.Cmp(*whole) == 0
}

func positiveFix(s string) string {
	if n, bad := ParseSize(strings.TrimPrefix(s, "-")); bad == nil && n > 0 {
		return "write " + Quote(strings.TrimPrefix(s, "-"))
	}
	return sizeExample
}

var looseSize = regexp.MustCompile(`^\s*\+?([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*$`)

// sizeFix guesses what was meant: 20GiB and "20 gi" are 20Gi, 20GB is 20G.
func sizeFix(s string) string {
	m := looseSize.FindStringSubmatch(s)
	if m == nil {
		return sizeExample
	}
	unit := strings.ToLower(m[2])
	for _, tail := range []string{"ytes", "yte"} {
		unit = strings.TrimSuffix(unit, tail)
	}
	unit = strings.TrimSuffix(unit, "b")
	suffix, ok := map[string]string{
		"": "", "k": "k", "m": "M", "g": "G", "t": "T", "p": "P", "e": "E",
		"ki": "Ki", "mi": "Mi", "gi": "Gi", "ti": "Ti", "pi": "Pi", "ei": "Ei",
		"kibi": "Ki", "mebi": "Mi", "gibi": "Gi", "tebi": "Ti", "kilo": "k", "mega": "M", "giga": "G", "tera": "T",
	}[unit]
	if !ok {
		return sizeExample
	}
	if _, bad := ParseSize(m[1] + suffix); bad != nil {
		return sizeExample
	}
	return "write " + Quote(m[1]+suffix)
}

// formatSize is the shortest exact quantity of n bytes, for messages.
func formatSize(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
