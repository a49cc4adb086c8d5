package sidecar

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/sidecar/status"
)

// TestGiveToGroup: the root becomes the group's once, and stays as the application leaves it.
func TestGiveToGroup(t *testing.T) {
	p := newPlace(t)
	s, data, logs := p.pair()
	require.NoError(t, p.open(data))
	root := func() (gid, mode uint32) {
		a, err := data.fs.Attr(meta.Root)
		require.NoError(t, err)
		return a.GID, a.Mode & 0o7777
	}
	require.NoError(t, giveToGroup(data.fs, 0))
	gid, mode := root()
	require.Zero(t, gid)
	require.Equal(t, uint32(0o777), mode)

	require.NoError(t, giveToGroup(data.fs, 1000))
	gid, mode = root()
	require.Equal(t, uint32(1000), gid)
	require.Equal(t, uint32(0o2777), mode)

	private := uint32(0o700)
	_, err := data.fs.SetAttr(&cachefs.Caller{}, meta.Root, cachefs.SetAttr{Mode: &private})
	require.NoError(t, err)
	require.NoError(t, giveToGroup(data.fs, 1000))
	_, mode = root()
	require.Equal(t, private, mode, "an application that closed its root, as PostgreSQL does")
	require.NoError(t, data.close())
	_ = logs
	require.NoError(t, s.disks.close())
}

// TestReadyzWaits: a question that comes before the mount is answered when it is there, and not a period later.
func TestReadyzWaits(t *testing.T) {
	p := newPlace(t)
	s, data, _ := p.pair()
	s.cfg.Mode = ModeNode
	s.volumes = []*volume{data}
	synctest.Test(t, func(t *testing.T) {
		ask := func() int {
			w := httptest.NewRecorder()
			s.readyz(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			return w.Code
		}
		asked := time.Now()
		require.Equal(t, http.StatusServiceUnavailable, ask())
		require.Equal(t, readyzWait, time.Since(asked))
		answer := make(chan int, 1)
		asked = time.Now()
		go func() { answer <- ask() }()
		time.Sleep(readyzWait / 2)
		data.setState(status.Mounted)
		require.Equal(t, http.StatusOK, <-answer)
		require.Less(t, time.Since(asked), readyzWait)
	})
}
