#!/usr/bin/env bash
# A Docker engine of the tests' own, with its client and Compose, none of which gets installed.
#   docker.sh tools       fetches and builds them, once
#   docker.sh up STATE    starts an engine in a network and a mount namespace of its own
#   docker.sh image STATE NAME PROGRAM [ARGUMENT…]  makes an image of a program and what it is linked to
#   docker.sh gate STATE NAME   builds the image that is released, by the Dockerfile, and loads it
#   docker.sh down STATE  ends it and everything that it started
# Clients: DOCKER_HOST=unix://STATE/socket DOCKER_CONFIG=STATE/config, and $bin and $docker in the path.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export PATH=$PATH:/usr/sbin:/sbin
docker=$cache/docker

# Debian's packages, signed by Debian, laid out in a folder.
engine() {
    [ ! -d "$docker/usr" ] || return 0
    commands runc:runc iptables:iptables iproute2:ip
    rm -rf "$docker.new" && mkdir -p "$docker.new" && cd "$docker.new"
    chmod 777 .
    apt-get download docker.io containerd >download.log 2>&1 || { apt-get update && apt-get download docker.io containerd; } >>download.log 2>&1 ||
        die "apt-get download failed: see $docker.new/download.log"
    for package in *.deb; do dpkg-deb --extract "$package" . && rm "$package"; done
    mv "$docker.new" "$docker"
}

up() {
    local state=$1 name
    [ "$(id -u)" = 0 ] || die "must be root"
    mkdir -p "$state/config/cli-plugins"
    ln -sf "$bin/docker-compose" "$state/config/cli-plugins/docker-compose"
    name=upgrade-gate-$(basename "$state")
    printf '%s\n' "$name" >"$state/name"
    ip netns add "$name"
    ip -n "$name" link set lo up
    cat >"$state/inside.sh" <<I
mount -t tmpfs tmpfs /run/containerd 2>/dev/null || true
export PATH=$docker/usr/bin:$docker/usr/sbin:\$PATH
exec dockerd --host unix://$state/socket --data-root $state/data --exec-root $state/exec --pidfile $state/pid \
    --cgroup-parent /$name --userland-proxy=false --ip-masq=false --shutdown-timeout 1
I
    setsid nsenter --net="/run/netns/$name" unshare --mount --propagation private bash -e "$state/inside.sh" \
        </dev/null >"$state/log" 2>&1 &
    local engine=$!
    until DOCKER_HOST=unix://$state/socket "$docker/usr/bin/docker" version >/dev/null 2>&1; do
        kill -0 $engine 2>/dev/null || { tail -n 20 "$state/log" >&2; die "the engine ended"; }
        sleep 0.1
    done
}

image() {
    local state=$1 name=$2 program root=$1/image library entry
    program=$(realpath "$3")
    shift 3
    mkdir -p "$root/tmp" "$root/data/db"
    cp "$program" "$root/program"
    for library in $(ldd "$program" | grep -o '/[^ ]*'); do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
    entry=$(printf ', "%s"' /program "$@")
    tar -C "$root" -c . | DOCKER_HOST=unix://$state/socket "$docker/usr/bin/docker" import --change "ENTRYPOINT [${entry#, }]" - "$name" >/dev/null
    rm -r "$root"
}

# What the end-to-end tests run: a static program, which resolves names without a library.
gate() {
    local state=$1 name=$2 built tar
    export DOCKER_HOST=unix://$state/socket
    read -r built tar < <("$here/image.sh" | grep /datalab-upgrade:)
    "$docker/usr/bin/docker" load --quiet --input "$tar" >/dev/null
    "$docker/usr/bin/docker" tag "$built" "$name"
}

down() {
    local state=$1 name pid containers
    name=$(cat "$state/name") pid=$(cat "$state/pid" 2>/dev/null || true)
    if [ -n "$pid" ]; then
        export DOCKER_HOST=unix://$state/socket
        containers=$("$docker/usr/bin/docker" ps --quiet || true)
        [ -z "$containers" ] || "$docker/usr/bin/docker" kill $containers >/dev/null || true
        kill "$pid" 2>/dev/null || true
        # as long as it runs, its files are in use
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    fi
    ip netns del "$name" 2>/dev/null || true
    find /sys/fs/cgroup -depth -type d -path "*/$name*" -exec rmdir {} + 2>/dev/null || true
    rm -rf "$state"
}

case ${1-} in
    tools) locked docker engine && "$here/build.sh" compose ;;
    up | down) "$1" "$(realpath -m "$2")" ;;
    image | gate) "$@" ;;
    *) die "docker.sh tools | up STATE | image STATE NAME PROGRAM | gate STATE NAME | down STATE" ;;
esac
