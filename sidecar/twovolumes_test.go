package sidecar

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// pair is a sidecar with two volumes of one copy in one disk directory.
func (p *place) pair() (s *sidecar, data, logs *volume) {
	cfg := p.config()
	cfg.now = time.Now
	other := cfg.Volumes[0]
	other.Name = "logs"
	cfg.Volumes = append(cfg.Volumes, other)
	s = &sidecar{cfg: cfg, auth: authority.Files{Dir: filepath.Join(p.dir, "volumes")}}
	s.disks = &disks{cfg: &s.cfg}
	return s, newVolume(s, cfg.Volumes[0]), newVolume(s, cfg.Volumes[1])
}

func (p *place) open(v *volume) error {
	v.client = &holder.Client{SessionID: 7, State: holder.Fresh}
	return v.openReplica(p.t.Context())
}

// TestAVolumeThatIsClosedKeepsItsJournal: the disk's other volumes go on, and give back segments; not those that it needs.
func TestAVolumeThatIsClosedKeepsItsJournal(t *testing.T) {
	p := newPlace(t)
	s, data, logs := p.pair()
	require.NoError(t, p.open(data))
	require.NoError(t, p.open(logs))
	p.put(data, "a", 9000, 1)
	require.NoError(t, data.close())
	p.put(logs, "small", 100, 2)
	for i := range byte(40) { // small enough to go through the journal
		p.put(logs, "b", 100_000, i)
	}
	require.NoError(t, logs.close())
	require.NoError(t, s.disks.close())

	s, data, logs = p.pair() // and one that is not open yet
	require.NoError(t, p.open(logs))
	for i := range byte(40) {
		p.put(logs, "b", 100_000, i)
	}
	require.NoError(t, logs.group.(interface{ Checkpoint() error }).Checkpoint())
	require.NoError(t, p.open(data))
	require.NoError(t, p.get(data, "a", 9000, 1))
	require.NoError(t, p.get(logs, "b", 100_000, 39))
	require.NoError(t, data.close())
	require.NoError(t, logs.close())
	require.NoError(t, s.disks.close())
}
