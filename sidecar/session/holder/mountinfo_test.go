package holder

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseMountinfo(t *testing.T) {
	entries, err := parseMountinfo(strings.NewReader(
		"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n" +
			`71 28 0:300 / /tmp/a\040b\134/mnt rw,nodev,relatime - fuse.remora data-db-0 rw,user_id=0` + "\n"))
	require.NoError(t, err)
	require.Equal(t, []mountEntry{
		{point: "/mnt2", fs: "ext3", minor: 0},
		{point: `/tmp/a b\/mnt`, fs: "fuse.remora", minor: 300},
	}, entries)
	_, err = parseMountinfo(strings.NewReader("36 35 98:0 /\n"))
	require.ErrorContains(t, err, "cannot read line")
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add(`71 28 0:300 / /tmp/a\040b rw - fuse.remora data-db-0 rw`)
	f.Fuzz(func(_ *testing.T, s string) { _, _ = parseMountinfo(strings.NewReader(s)) })
}
