package identity

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func parseText(t testing.TB, texts ...string) (Identity, error) {
	t.Helper()
	var uris []*url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		require.NoError(t, err)
		uris = append(uris, u)
	}
	return Parse(uris)
}

func TestIdentityRoundTrip(t *testing.T) {
	for _, id := range []Identity{
		{Tenant: "shop", Pod: "db-0"},
		{Tenant: "a.b-c", Pod: "keeper.node-1", Volumes: []string{"data-db-0", "data-db-1", "x"}},
		{Tenant: strings.Repeat("t", 253), Pod: "0", Volumes: []string{strings.Repeat("v", 253)}},
	} {
		var texts []string
		for _, u := range id.URIs() {
			texts = append(texts, u.String())
		}
		got, err := parseText(t, texts...)
		require.NoError(t, err)
		require.Equal(t, id, got)
	}
	got, err := parseText(t, "remora://shop/volume/b", "spiffe://shop/pod/other", "remora://shop/pod/db-0", "remora://shop/volume/a",
		"remora://shop/volume/b", "remora://shop/shelf/9")
	require.NoError(t, err)
	require.Equal(t, Identity{"shop", "db-0", []string{"a", "b"}}, got, "sorted, once each; what is not known grants nothing")
	require.True(t, got.Has("a"))
	require.False(t, got.Has("9"))
}

func TestBadIdentities(t *testing.T) {
	for name, texts := range map[string][]string{
		"nothing":              {},
		"no pod":               {"remora://shop/volume/data"},
		"two pods":             {"remora://shop/pod/a", "remora://shop/pod/b"},
		"same pod twice":       {"remora://shop/pod/a", "remora://shop/pod/a"},
		"two tenants":          {"remora://shop/pod/a", "remora://bank/volume/data"},
		"another's new kind":   {"remora://shop/pod/a", "remora://bank/shelf/9"},
		"no tenant":            {"remora:///pod/a"},
		"upper case":           {"remora://Shop/pod/a"},
		"port":                 {"remora://shop:80/pod/a"},
		"user":                 {"remora://me@shop/pod/a"},
		"query":                {"remora://shop/pod/a?x=1"},
		"empty query":          {"remora://shop/pod/a?"},
		"fragment":             {"remora://shop/pod/a#x"},
		"opaque":               {"remora:shop/pod/a"},
		"deeper":               {"remora://shop/pod/a/b"},
		"shallower":            {"remora://shop/pod"},
		"trailing slash":       {"remora://shop/pod/a/"},
		"escaped":              {"remora://shop/pod/%61"},
		"escaped slash":        {"remora://shop/pod/a%2Fb"},
		"empty name":           {"remora://shop/pod/"},
		"dots":                 {"remora://shop/pod/.."},
		"dash at the end":      {"remora://shop/pod/a-"},
		"unicode":              {"remora://shop/pod/ä"},
		"long name":            {"remora://shop/pod/" + strings.Repeat("a", 254)},
		"bad volume":           {"remora://shop/pod/a", "remora://shop/volume/UP"},
		"bad name of new kind": {"remora://shop/pod/a", "remora://shop/shelf/_"},
	} {
		got, err := parseText(t, texts...)
		require.Error(t, err, "%s: %v", name, got)
	}
	var many []string
	for i := range maxVolumes + 1 {
		many = append(many, "remora://shop/volume/v"+strings.Repeat("0", i%200)+strings.Repeat("1", i/200))
	}
	_, err := parseText(t, append(many, "remora://shop/pod/a")...)
	require.ErrorContains(t, err, "at most 1024")
}

// FuzzParse: whatever is accepted is one spelling of one identity.
func FuzzParse(f *testing.F) {
	f.Add("remora://shop/pod/db-0", "remora://shop/volume/data")
	f.Add("remora://shop/pod/%2e%2e", "spiffe://x/y")
	f.Fuzz(func(t *testing.T, a, b string) {
		var uris []*url.URL
		for _, text := range []string{a, b} {
			if u, err := url.Parse(text); err == nil {
				uris = append(uris, u)
			}
		}
		id, err := Parse(uris)
		if err != nil {
			return
		}
		require.NoError(t, id.Validate())
		again, err := Parse(id.URIs())
		require.NoError(t, err)
		require.Equal(t, id, again)
	})
}
