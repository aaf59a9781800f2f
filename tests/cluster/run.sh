#!/usr/bin/env bash
# The end-to-end tests: run.sh [FILTER...] builds what is missing, starts a cluster, runs the scenarios
# whose names contain a FILTER, and leaves nothing, however it ends. A FILTER that fits none is an error.
#
#   run.sh up               starts a cluster that stays, in $E2E_STATE (default /tmp/upgrade-gate-e2e)
#   run.sh test [FILTER...] runs scenarios on it; several at once may, from several clones
#   run.sh env COMMAND...   runs a command against it: run.sh env kubectl get pods -A
#   run.sh down             ends it
#
# E2E_KEEP=1 run.sh [FILTER...] starts one that stays where none runs, and uses it.
#
# On a cluster of your own: KUBECONFIG=~/.kube/config run.sh [FILTER...], with
#   E2E_HOST            an address of this machine that pods reach: MongoDB servers are started there
#                       (kind: the gateway of its network; minikube: that of host.minikube.internal)
#   E2E_IMAGE, E2E_STOCK_IMAGE, E2E_PYTHON_IMAGE, E2E_SCENARIO_IMAGE, E2E_LAB_IMAGE, E2E_MONGOD_IMAGE
#                       names of images that the nodes have: image.sh builds them, `kind load image-archive`
#                       and `minikube image load` take what it prints
#   E2E_KILL            a command that kills the container whose id follows it (kind: docker exec
#                       kind-control-plane ctr -n k8s.io task kill -s SIGKILL); for other signals the tests
#                       replace that word
#   E2E_API_SERVER      a command that sends the API server the signal whose name follows it (kind: docker exec
#                       kind-control-plane sh -c 'kill -s $0 $(pidof kube-apiserver)')
#   E2E_BIN             a folder with kubectl, helm3, helm4 and argocd (default: those that build.sh builds)
#
# E2E_JOBS says how many scenarios run at once (4).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export PATH=$bin:$PATH:/usr/sbin:/sbin
kept=${E2E_STATE:-/tmp/upgrade-gate-e2e}

# Sets E2E_*IMAGE, and tars: the file of each image that is not yours.
images() {
    local name file
    tars=()
    while read -r name file; do
        tars+=("$name $file")
        case $name in
            */datalab-upgrade:*) export E2E_IMAGE=$name ;;
            */upgrade-gate:*) export E2E_STOCK_IMAGE=$name ;;
            */gate-python:*) export E2E_PYTHON_IMAGE=$name ;;
            */gate-scenario:*) export E2E_SCENARIO_IMAGE=$name ;;
            */gate-lab:*) export E2E_LAB_IMAGE=$name ;;
            */gate-mongod:*) export E2E_MONGOD_IMAGE=$name ;;
        esac
    done <<<"$1"
}

# Starts a cluster in the folder $1, with nobody else's images.
up() { "$here/up.sh" "$1" $(printf '%s\n' "${tars[@]}" | cut -d ' ' -f 2); }

# Whatever a run that was killed has left.
sweep() {
    local state
    for state in "${TMPDIR:-/tmp}"/upgrade-gate-e2e-*/; do
        state=${state%/}
        [ ! -d "$state" ] || grep -qa run.sh "/proc/${state##*-}/cmdline" 2>/dev/null || "$here/down.sh" "$state"
    done
}

# Images of this clone that the cluster in $1 has not got.
load() {
    local ctr="ctr -a $1/ctd/c.sock -n k8s.io" there image
    there=$($ctr images ls -q)
    for image in "${tars[@]}"; do
        grep -qxF "${image% *}" <<<"$there" || $ctr images import "${image#* }" >&2
    done
}

# inside STATE: makes what follows talk to the cluster there.
inside() {
    export KUBECONFIG=$1/kubeconfig E2E_HOST=10.77.0.1 E2E_BIN=$bin E2E_STATE=$1
    export E2E_KILL="$bin/ctr -a $1/ctd/c.sock -n k8s.io task kill -s SIGKILL"
    E2E_API_SERVER="sh -c 'kill -s \$0 $(cat "$1/pids/kube-apiserver")'"
    export E2E_API_SERVER
    # What tests leave that are killed goes with the cluster.
    export TMPDIR=$1/tmp
    mkdir -p "$TMPDIR"
    netns=(nsenter "--net=/run/netns/$(basename "$1")")
}

# Only the tests run inside the namespace: there cargo would have no network.
scenarios() {
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
    [ ${#netns[@]} -eq 0 ] || export "CARGO_TARGET_${triple}_RUNNER=${netns[*]}"
    (cd "$repository" && cargo test --locked --quiet --test e2e -- "$@")
}

# Refuses a FILTER that no scenario's name contains, before anything is built for it.
chosen() {
    [ $# -eq 0 ] || (cd "$repository" && cargo test --locked --quiet --test e2e -- --list "$@" >/dev/null) ||
        die "nothing was run: see cargo test --test e2e -- --list"
}

netns=()
command=${1:-}
case $command in up | test | env | down) shift ;; *) command=all ;; esac

if [ "$command" = down ]; then exec "$here/down.sh" "$kept"; fi
if [ "$command" = env ]; then inside "$kept"; exec "${netns[@]}" "$@"; fi
[ "$command" = up ] || chosen "$@"

if [ "$command" != up ] && [ -n "${KUBECONFIG:-}" ]; then
    for name in E2E_HOST E2E_IMAGE E2E_STOCK_IMAGE E2E_PYTHON_IMAGE E2E_SCENARIO_IMAGE E2E_LAB_IMAGE E2E_MONGOD_IMAGE E2E_KILL E2E_API_SERVER; do
        [ -n "${!name:-}" ] || die "KUBECONFIG is set, so $name must be: see the head of $0"
    done
    [ -n "${E2E_BIN:-}" ] || "$here/build.sh" kube helm3 helm4 argocd
    export E2E_BIN=${E2E_BIN:-$bin}
    scenarios "$@"
    exit
fi

"$here/build.sh"
built=$("$here/image.sh")
images "$built"
if [ "$command" = test ] || [ -n "${E2E_KEEP:-}" ] || [ "$command" = up ]; then
    start() { [ -f "$kept/ready" ] || { [ ! -e "$kept" ] || "$here/down.sh" "$kept"; up "$kept"; }; }
    if [ "$command" = test ]; then [ -f "$kept/ready" ] || die "no cluster: $0 up"; else locked cluster start; fi
    [ "$command" = up ] && exit
    load "$kept"
    inside "$kept"
    scenarios "$@"
    exit
fi

sweep
state=${TMPDIR:-/tmp}/upgrade-gate-e2e-$$
# Ctrl-C reaches the tests by itself; the cluster ends after them.
trap 'exit 130' INT TERM HUP
trap '"$here/down.sh" "$state"' EXIT
up "$state"
inside "$state"
scenarios "$@"
