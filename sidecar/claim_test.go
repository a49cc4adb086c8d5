package sidecar

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/webhook/spec"
)

// place is a node's disks, Volume objects and keys, as a pod finds them.
type place struct {
	t    *testing.T
	dir  string
	pod  string
	node string
	size int64
	seal v1alpha1.Sealing
}

func newPlace(t *testing.T) *place {
	p := &place{t: t, dir: t.TempDir(), pod: "db-0", node: "node-0", size: 1 << 30, seal: v1alpha1.SealingOn}
	require.NoError(t, os.MkdirAll(filepath.Join(p.dir, "volumes"), 0o700))
	return p
}

func (p *place) settings() Config {
	return Config{Mode: "dev", Pod: p.pod, Namespace: "default", Node: p.node, Disks: filepath.Join(p.dir, "disks"),
		Authority: "file:" + filepath.Join(p.dir, "volumes"), Keys: "file:" + filepath.Join(p.dir, "keys"), Holder: "unix:/none",
		Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20,
		Volumes: []spec.Volume{{Name: "data", Size: p.size, Class: "default", Replicas: 1, Sealing: p.seal}}}
}

func (p *place) config() Config {
	cfg, err := p.settings().withDefaults()
	require.NoError(p.t, err)
	return cfg
}

// start claims the volume as a sidecar does before it opens the log; end gives it back.
func (p *place) start() (v *volume, end func(), err error) {
	cfg := p.config()
	s := &sidecar{cfg: cfg, auth: authority.Files{Dir: filepath.Join(p.dir, "volumes")}}
	s.disks = &disks{cfg: &s.cfg}
	v = newVolume(s, cfg.Volumes[0])
	var replica *diskdir.Replica
	if err = v.prepare(p.t.Context()); err == nil {
		replica, _, err = v.claim(p.t.Context())
	}
	return v, func() {
		if replica != nil {
			require.NoError(p.t, replica.Close())
		}
		require.NoError(p.t, s.disks.close())
	}, err
}

func (p *place) refused(want string) {
	_, end, err := p.start()
	end()
	require.ErrorContains(p.t, err, want)
}

func (p *place) served() *volume {
	v, end, err := p.start()
	require.NoError(p.t, err)
	require.NoError(p.t, v.becomeReady(p.t.Context()))
	end()
	return v
}

func TestEveryStartTakesTheNextEpochOfTheSameReplica(t *testing.T) {
	p := newPlace(t)
	first := p.served()
	second := p.served()
	require.EqualValues(t, 1, first.object.Epoch)
	require.EqualValues(t, 2, second.object.Epoch)
	require.EqualValues(t, 2, second.object.Incarnation)
	require.Equal(t, first.object.Members, second.object.Members)
	require.Equal(t, v1alpha1.VolumeReady, second.object.Phase)
}

// TestAnEmptyDiskDoesNotBootstrap is I6: a volume that exists is never made again.
func TestAnEmptyDiskDoesNotBootstrap(t *testing.T) {
	p := newPlace(t)
	p.served()
	require.NoError(t, os.Rename(filepath.Join(p.dir, "disks"), filepath.Join(p.dir, "elsewhere")))
	p.refused("an empty disk never takes its place")
	require.NoError(t, os.RemoveAll(filepath.Join(p.dir, "disks")))
	require.NoError(t, os.Rename(filepath.Join(p.dir, "elsewhere"), filepath.Join(p.dir, "disks")))
	p.served()
}

func TestTheReplicaIsOnOneNode(t *testing.T) {
	p := newPlace(t)
	p.served()
	p.node = "node-1"
	p.refused("is on node node-0, and this is node-1")
}

func TestAVolumeGrowsAndDoesNotShrink(t *testing.T) {
	p := newPlace(t)
	p.served()
	p.size = 2 << 30
	require.EqualValues(t, 2<<30, p.served().object.Size)
	p.size = 1 << 30
	p.refused("a volume cannot shrink")
	p.size = 2 << 30
	p.served()
}

func TestTheKeyIsTheVolumes(t *testing.T) {
	p := newPlace(t)
	p.served()
	key := filepath.Join(p.dir, "keys", "data-db-0.key")
	right, err := os.ReadFile(key)
	require.NoError(t, err)
	for want, content := range map[string]string{
		"put the right key back":     strings.Repeat("ab", 32),
		"want 64 hexadecimal digits": "too short",
	} {
		require.NoError(t, os.WriteFile(key, []byte(content), 0o600))
		p.refused(want)
	}
	require.NoError(t, os.Remove(key))
	p.refused("no such file")
	require.NoFileExists(t, key, "a volume that has a key never gets another")
	require.NoError(t, os.WriteFile(key, right, 0o600))
	p.seal = v1alpha1.SealingOff
	p.refused("sealing is fixed when a volume is made")
	p.seal = v1alpha1.SealingOn
	p.served()
}

func TestAReplicaOfAnotherVolumeOrDisk(t *testing.T) {
	p := newPlace(t)
	v := p.served()
	member := v.object.Members[0]
	replica := filepath.Join(p.dir, "disks", member.Disk, "replicas", member.Replica, "superblock")
	b, err := os.ReadFile(replica)
	require.NoError(t, err)

	// The superblock of another pod's replica, under this one's name.
	other := *p
	other.pod = "db-1"
	o := other.served().object.Members[0]
	require.NotEqual(t, member.Disk, o.Disk, "a directory with somebody else's replica is not shared")
	foreign, err := os.ReadFile(filepath.Join(p.dir, "disks", o.Disk, "replicas", o.Replica, "superblock"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(replica, foreign, 0o600))
	p.refused("a replica cannot be copied")

	// One damaged copy is survived, two are not, and nothing is written over them.
	require.NoError(t, os.WriteFile(replica, b, 0o600))
	b[100] ^= 1
	require.NoError(t, os.WriteFile(replica, b, 0o600))
	p.served()
	b[4096+100] ^= 1
	require.NoError(t, os.WriteFile(replica, b, 0o600))
	p.refused("superblock is damaged")
}
