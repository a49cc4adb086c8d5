package sidecar

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/remora-storage/remora/sidecar/status"
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
	replicaInSync = describeReplica("in_sync", "1 where remora status says InSync; 0 where it says anything else, and the replica is to be served here.")
	replicaBehind = describeReplica("behind_records", "Log positions that the group's leader had committed when it said so last, and this replica has not applied.")
	replicaLeads  = describeReplica("leads", "1 where the replica leads its group.")
	replicaAbsent = describeReplica("absent_bytes", "Content that is still to come from a peer.")
)

// replicas is a prometheus.Collector of what the replicas served here have found, healed and filled since they were opened.
type replicas struct{ h *host }

// Describe sends every description.
func (replicas) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		replicaBad, replicaHealed, replicaUnhealed, replicaScrubbed, replicaFilled, replicaAbsent, replicaRoom, replicaReplaced, replicasGivenUp, replicaKept, volumeCopies,
		replicaInSync, replicaBehind, replicaLeads,
	} {
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
		standing(ch, r)
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
		send(replicaReplaced, prometheus.GaugeValue, int64(gauge(g.Status().Replaced)))
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

// standing tells how a replica stands in its group; also of one that is not served, though it shall be.
func standing(ch chan<- prometheus.Metric, r *hosted) {
	st := r.status()
	for d, n := range map[*prometheus.Desc]float64{
		replicaInSync: gauge(stateOfReplica(st) == status.InSync),
		replicaLeads:  gauge(st.Err == nil && st.Leader == uint64(r.id)),
		replicaBehind: float64(st.Behind),
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, r.volume, r.id.String())
	}
}

func gauge(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
