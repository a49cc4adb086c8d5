package sidecar

import (
	"github.com/prometheus/client_golang/prometheus"
)

func describeReplica(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("remora_replica_"+name, help, []string{"volume", "replica"}, nil)
}

var (
	replicaBad      = describeReplica("bad_blocks_total", "Blocks whose content did not fit their seals, by reads, scrubs and peers; each counted once.")
	replicaHealed   = describeReplica("healed_blocks_total", "Bad blocks that were written again with content from a peer.")
	replicaUnhealed = describeReplica("unhealed_blocks", "Bad blocks that are not healed.")
	replicaScrubbed = describeReplica("scrubbed_bytes_total", "Content that scrubs read and compared with its seals.")
	replicaFilled   = describeReplica("filled_bytes_total", "Content that was absent and came from a peer.")
	replicaReplaced = describeReplica("replaced", "1 where the state was replaced by a peer's since the replica was opened: it was damaged, or too far behind.")
	replicasGivenUp = prometheus.NewDesc("remora_replicas_given_up_total", "Replicas that were given up here because their journal or superblock was damaged.",
		[]string{"volume"}, nil)
	replicaKept   = describeReplica("kept_bytes", "Records that a witness keeps for replicas that lack a checkpoint of them.")
	volumeCopies  = prometheus.NewDesc("remora_volume_copies", "Voters with content whose disks are not lost, as the Volume object says.", []string{"volume"}, nil)
	replicaRoom   = describeReplica("room_bytes", "What the replica's disk may still take, beside its reserve; programs get ENOSPC by the least of all voters.")
	replicaAbsent = describeReplica("absent_bytes", "Content that is still to come from a peer.")
)

// replicas is a prometheus.Collector of what the replicas served here have found, healed and filled since they were opened.
type replicas struct{ h *host }

// Describe sends every description.
func (replicas) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{replicaBad, replicaHealed, replicaUnhealed, replicaScrubbed, replicaFilled, replicaAbsent, replicaRoom, replicaReplaced, replicasGivenUp, replicaKept, volumeCopies} {
		ch <- d
	}
}

// Collect sends a snapshot of every metric.
func (c replicas) Collect(ch chan<- prometheus.Metric) {
	for volume, n := range c.h.givenUpCounts() {
		ch <- prometheus.MustNewConstMetric(replicasGivenUp, prometheus.CounterValue, float64(n), volume)
	}
	copies := map[string]int{}
	defer func() {
		for volume, n := range copies {
			ch <- prometheus.MustNewConstMetric(volumeCopies, prometheus.GaugeValue, float64(n), volume)
		}
	}()
	for _, r := range c.h.list() {
		r.mu.Lock()
		g, ok := r.group.(*peerGroup)
		r.mu.Unlock()
		if !ok {
			continue
		}
		if o, ok := c.h.object(r.volume); ok {
			copies[r.volume] = o.Have()
		}
		if r.witness {
			ch <- prometheus.MustNewConstMetric(replicaKept, prometheus.GaugeValue, float64(g.Member().Kept), r.volume, r.id.String())
			continue
		}
		st := g.FillStatus()
		send := func(d *prometheus.Desc, kind prometheus.ValueType, n int64) {
			ch <- prometheus.MustNewConstMetric(d, kind, float64(n), r.volume, r.id.String())
		}
		replaced := int64(0)
		if g.Status().Replaced {
			replaced = 1
		}
		send(replicaReplaced, prometheus.GaugeValue, replaced)
		send(replicaBad, prometheus.CounterValue, st.BadBlocks)
		send(replicaHealed, prometheus.CounterValue, st.HealedBlocks)
		send(replicaUnhealed, prometheus.GaugeValue, st.Unhealed)
		send(replicaScrubbed, prometheus.CounterValue, st.ScrubbedBytes)
		send(replicaFilled, prometheus.CounterValue, st.FilledBytes)
		send(replicaAbsent, prometheus.GaugeValue, st.AbsentBytes)
		if room, known := g.RoomHere(); known {
			send(replicaRoom, prometheus.GaugeValue, room)
		}
	}
}
