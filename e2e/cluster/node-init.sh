#!/bin/bash
# node-init.sh STATE NODE ADDRESS PODS CGROUP: pid 1 of a node, in namespaces of its own (node.go). It makes the node's mounts,
# then runs containerd, kubelet and kube-proxy. When it is killed, the node is.
set -eu
trap 'echo "node-init.sh: line $LINENO: status $?"' ERR
state=$1 name=$2 address=$3 pods=$4 cgroup=$5
mine=$state/nodes/$name pki=$state/pki
hostname "$name"

# --- mounts ---------------------------------------------------------------------------------------------------------------

# This namespace has a copy of every mount of the machine. A copy of somebody's FUSE mount or loop device would pin it.
awk '$2 !~ /^\/($|proc|sys|dev|run)/ {print $2}' /proc/mounts | tac | while read -r m; do umount -l "$(printf '%b' "$m")"; done
mount -t proc proc /proc
# The machine's own v1 hierarchies, in a /sys of this network namespace. `unified` is left out: kubelet would take it for v2.
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
	mkdir /sys/fs/cgroup/$c && mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c
done
mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/xtables
[[ -L /var/run ]] || mount --bind /run /var/run
# The standard paths, each node with its own folder behind them.
bind() { mkdir -p "$2" && mount --bind "$mine/$1" "$2"; }
bind kubelet /var/lib/kubelet
bind containerd /var/lib/containerd
bind cni /var/lib/cni
bind cni-config /etc/cni/net.d
bind pods /var/log/pods
bind containers /var/log/containers
bind remora /var/lib/remora
# kubelet insists on these, and they are the whole machine's: it is shown the values that it wants.
mkdir /run/shown
for s in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 \
	kernel/keys/root_maxbytes=25000000; do
	f=/run/shown/${s//\//_}
	echo "${s#*=}" >"$f" && mount --bind "$f" "/proc/sys/${s%=*}"
done
mount --make-rshared / # for Bidirectional mounts of pods; towards the machine it stays private
: >/run/resolv.conf
mount --bind /run/resolv.conf "$(readlink -f /etc/resolv.conf)" # an image that is not there is not asked for outside

# --- containerd -----------------------------------------------------------------------------------------------------------

cat >/etc/cni/net.d/10-remora.conflist <<END
{"cniVersion": "1.0.0", "name": "remora", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
# restrict_oom_score_adj: without CAP_SYS_RESOURCE a pod's sandbox cannot have the negative score that it is given.
cat >/run/containerd.toml <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "remora.test/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
END
containerd --config /run/containerd.toml >>"$state/log/$name-containerd.log" 2>&1 &
for _ in {1..600}; do ctr version >/dev/null 2>&1 && break || sleep 0.1; done
for tar in "$state"/images/*.tar; do
	mark=$mine/imported-$(basename "$tar")-$(stat -c %Y-%s "$tar")
	[[ -e $mark ]] || { ctr -n k8s.io images import "$tar" && touch "$mark"; }
done

# --- kubelet, kube-proxy --------------------------------------------------------------------------------------------------

cat >/run/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-$name.crt
tlsPrivateKeyFile: $pki/kubelet-$name.key
resolvConf: /run/resolv.conf
clusterDNS: [10.252.0.10] # there is none; without an address every pod gets a warning
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
enforceNodeAllocatable: []
failSwapOn: false
healthzBindAddress: 127.0.0.1
readOnlyPort: 0
maxPods: 220
nodeStatusUpdateFrequency: 4s
nodeLeaseDurationSeconds: 8
syncFrequency: 10s
volumeStatsAggPeriod: 10s
# The disk is the machine's: that others fill it is no reason to evict pods. 100: no image is ever removed (there is no registry to get it back from).
evictionHard: {memory.available: 100Mi, nodefs.available: 50Mi, imagefs.available: 50Mi, nodefs.inodesFree: 0.1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
END
"$state/bin/kubelet" --config=/run/kubelet.yaml --kubeconfig="$pki/kubelet-$name.kubeconfig" --hostname-override="$name" \
	--node-ip="$address" --root-dir=/var/lib/kubelet --v=2 >>"$state/log/$name-kubelet.log" 2>&1 &
# Zeros: it sets none of the machine's conntrack limits.
cat >/run/kube-proxy.yaml <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $name
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clusterCIDR: 10.251.0.0/16
clientConnection: {kubeconfig: $pki/kube-proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
"$state/bin/kube-proxy" --config=/run/kube-proxy.yaml --v=1 >>"$state/log/$name-kube-proxy.log" 2>&1 &

while :; do # reap, and stay: pid 1 is the node
	wait -n || echo "a process of $name ended: $?"
	sleep 1
done
