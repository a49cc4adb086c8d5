// Command cluster runs a real Kubernetes of three nodes on one Debian machine, for development and e2e tests:
//
//	cluster up                      build what is missing, start; a cluster that is up stays
//	cluster down                    stop, and leave no process, namespace, link, mount or cgroup; node data goes, programs stay
//	cluster load TAR...             import images into every node
//	cluster node-up|node-kill NODE  power on and off; off is SIGKILL to everything of the node at once
//	cluster exec NODE PROGRAM...    run a program in a node's namespaces
//	cluster env                     print KUBECONFIG and PATH for a shell
//
// A node is a tree of processes below one that has a pid, mount, network, UTS and IPC namespace of its own (node-init.sh):
// containerd and runc of Debian, a kubelet, kube-proxy. The control plane runs beside the nodes. All traffic stays on a bridge
// of this machine. docs/cluster.md says what was learnt.
package main
