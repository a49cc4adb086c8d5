#!/usr/bin/env bash
# Measures a volume of three replicas against GlusterFS with replica 3, three local bricks, all on one disk, in the same run:
#     sudo e2e/bench/gluster.sh [flags of bench]
# Everything is below one folder of /var/tmp and ends with the script. It needs Debian's glusterfs-server (installed if it is missing).
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v glusterd >/dev/null || apt-get install -y --no-install-recommends glusterfs-server >/dev/null
dir=$(mktemp -d /var/tmp/remora-gluster-XXXXXX)
mkdir -p "$dir"/{b1,b2,b3,mnt}
pids=()
end() {
	timeout 20 umount -f -l "$dir/mnt" 2>/dev/null || true
	timeout 30 gluster --mode=script volume stop rb force >/dev/null 2>&1 || true
	timeout 30 gluster --mode=script volume delete rb >/dev/null 2>&1 || true
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
	for f in /var/run/gluster/*.pid /var/run/gluster/vols/rb/*.pid; do [ -f "$f" ] && kill "$(cat "$f")" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap end EXIT
glusterd --no-daemon -L WARNING >"$dir/glusterd.log" 2>&1 &
pids+=($!)
for _ in $(seq 50); do timeout 5 gluster volume list >/dev/null 2>&1 && break; sleep 0.2; done
host=$(hostname)
grep -q "127.0.0.1.*$host" /etc/hosts || true
timeout 60 gluster --mode=script volume create rb replica 3 "$host:$dir/b1" "$host:$dir/b2" "$host:$dir/b3" force
timeout 60 gluster --mode=script volume start rb
timeout 60 glusterfs --volfile-server="$host" --volfile-id=rb "$dir/mnt"
for _ in $(seq 50); do timeout 5 stat -f -c %T "$dir/mnt" 2>/dev/null | grep -q fuse && break; sleep 0.2; done
go build -o bin/bench ./e2e/bench
bin/bench -against "dir:$dir/mnt" -only "${ONLY:-w1,w2,w4,w6}" -json bin/bench-gluster.json "$@"
