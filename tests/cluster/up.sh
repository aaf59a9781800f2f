#!/usr/bin/env bash
# Starts a Kubernetes of one node in a network and a mount namespace of its own: up.sh STATE [IMAGE.tar...]
#
# STATE is a folder that it makes, whose last part names the network namespace and the cgroup too, so that
# several clusters run side by side. Ready in about six seconds, 0.8 GB of memory. Afterwards:
#
#   nsenter --net=/run/netns/NAME env KUBECONFIG=STATE/kubeconfig .cache/cluster/bin/kubectl get pods -A
#
# The node is 10.77.0.1: a server that is bound there, inside the namespace, is reached from pods.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export PATH=$bin:$PATH:/usr/sbin:/sbin
state=$(realpath -m "$1") name=$(basename "$1")
shift
images=("$@")
[ "$(id -u)" = 0 ] || die "must be root, for namespaces and mounts"
[ -e "$state" ] && die "$state exists: down.sh ends what runs there"
commands runc:runc iptables:iptables iproute2:ip openssl:openssl

mkdir -p "$state"/{pids,log,kubelet,sys,plugins,ctd/cni}
cd "$state"
ip netns add "$name"
ip -n "$name" link set lo up
# Not every kernel has dummy links: a bridge serves as the node's interface.
ip -n "$name" link add node0 type bridge
ip -n "$name" addr add 10.77.0.1/24 dev node0
ip -n "$name" link set node0 up
# The API server does not start without a default route.
ip -n "$name" route add default via 10.77.0.1

# A cgroup of its own: two kubelets in one would end each other's pods.
for controller in /sys/fs/cgroup/*/; do
    [ -f "$controller/cgroup.procs" ] && [ ! -f /sys/fs/cgroup/cgroup.controllers ] || continue
    mkdir -p "$controller/$name"
    for file in cpuset.cpus cpuset.mems; do
        if [ -f "$controller/$file" ]; then cat "$controller/$file" >"$controller/$name/$file"; fi
    done
done
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$name"
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
        echo "+$controller" >"/sys/fs/cgroup/$name/cgroup.subtree_control" 2>/dev/null || true
    done
fi

openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,\"system:masters\"" >tokens.csv
cat >kubeconfig <<K
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: here, context: {cluster: here, user: admin}}]
current-context: here
K
cat >containerd.toml <<K
version = 3
root = "$state/ctd/root"
state = "$state/ctd/state"
[grpc]
  address = "$state/ctd/c.sock"
[ttrpc]
  address = "$state/ctd/c.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['$bin/cni']
    conf_dir = '$state/ctd/cni'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
K
cat >ctd/cni/10-bridge.conflist <<K
{
  "cniVersion": "1.0.0", "name": "$name",
  "plugins": [
    {"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true, "ipam": {
      "type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "dataDir": "$state/ctd/ipam",
      "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
K
cat >kubelet.yaml <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$state/ctd/c.sock
cgroupDriver: cgroupfs
cgroupRoot: /$name
failCgroupV1: false
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
enforceNodeAllocatable: []
clusterDomain: cluster.local
resolvConf: ""
maxPods: 500
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "1Mi", imagefs.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%"}
volumePluginDir: $state/plugins
K
cat >proxy.yaml <<K
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $state/kubeconfig}
mode: iptables
clusterCIDR: 10.88.0.0/16
hostnameOverride: node1
conntrack: {maxPerCore: 0, min: 0}
K
cat >inside.sh <<'I'
set -euo pipefail
# What these programs keep at fixed places goes into the state's folder instead.
for folder in /var/lib /var/log /run; do
    own=fixed${folder//\//-}
    mkdir -p "$own"/{upper,work}
    mount -t overlay -o "lowerdir=$folder,upperdir=$own/upper,workdir=$own/work" overlay "$folder"
done
# The pods' network namespaces vanish with this mount namespace.
mkdir -p /run/netns
# The kubelet writes these settings of the kernel: it gets files of its own in place of the host's.
for file in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    own=sys/${file//\//_}
    cat "/proc/sys/$file" >"$own"
    mount --bind "$own" "/proc/sys/$file"
done
mount --make-rshared /

start() {
    local program=$1
    shift
    setsid "$program" "$@" </dev/null >"log/$program" 2>&1 &
    echo $! >"pids/$program"
}
# until_ready COMMAND...: asks for a minute at most.
until_ready() {
    local try
    for try in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    echo "not ready after a minute: $*" >&2
    return 1
}
start etcd --data-dir etcd --unsafe-no-fsync
start containerd -c containerd.toml
start kube-apiserver --etcd-servers=http://127.0.0.1:2379 --cert-dir=certs --advertise-address=10.77.0.1 \
    --secure-port=6443 --token-auth-file=tokens.csv --authorization-mode=Node,RBAC \
    --service-cluster-ip-range=10.96.0.0/16 --service-account-key-file=sa.pub \
    --service-account-signing-key-file=sa.key --service-account-issuer=https://kubernetes.default.svc \
    --allow-privileged --client-ca-file=ca.crt --kubelet-preferred-address-types=InternalIP
until_ready ctr -a "$PWD/ctd/c.sock" version
for image; do ctr -a "$PWD/ctd/c.sock" -n k8s.io images import "$image" >&2; done
export KUBECONFIG=kubeconfig
until_ready kubectl get --raw /readyz
own=(--kubeconfig=kubeconfig --leader-elect=false)
start kube-controller-manager "${own[@]}" --authentication-kubeconfig=kubeconfig \
    --authorization-kubeconfig=kubeconfig --service-account-private-key-file=sa.key \
    --cert-dir=certs-kcm --root-ca-file=certs/apiserver.crt
start kube-scheduler "${own[@]}" --cert-dir=certs-scheduler
start kubelet --config=kubelet.yaml --kubeconfig=kubeconfig --root-dir="$PWD/kubelet" \
    --cert-dir=certs-kubelet --hostname-override=node1 --node-ip=10.77.0.1
start kube-proxy --config=proxy.yaml
until_ready kubectl get node/node1
kubectl wait --for=condition=Ready node/node1 --timeout=60s >&2
# Pods are refused until it is there, a moment after the node is ready.
until_ready kubectl get serviceaccount/default
I
nsenter --net="/run/netns/$name" unshare --mount --propagation private bash inside.sh "${images[@]}" \
    || die "the cluster did not start: see $state/log"
touch ready
