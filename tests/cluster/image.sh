#!/usr/bin/env bash
# Builds the images of the end-to-end tests, into $cache/images, and prints one a line:
# NAME TARFILE, where NAME is what pods say and changes with the contents.
#
#   image.sh                  the images of the end-to-end tests
#   image.sh release FOLDER [ARGUMENT…]  the images that are released, as FOLDER/NAME.tar, with the profile
#                             release; arguments are buildah's
#   image.sh own-app FOLDER   the image of a program copied from examples/own-app, by its own Dockerfile,
#                             written to FOLDER/image.tar
#
# RUST_IMAGE names a builder image of yours, where a container registry can be reached. Without it one is
# made from Debian's packages and the Rust toolchain that is installed. PROFILE=release builds what is
# released; the default leaves out what takes minutes and changes nothing but speed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export PATH=$PATH:/usr/sbin:/sbin
if [ "${1:-}" = release ]; then : "${PROFILE:=release}"; else : "${PROFILE:=e2e}"; fi
images=$cache/images
registry=${CARGO_HOME:-$HOME/.cargo}/registry
# the name under which the guide's Dockerfile takes it
python=$(sed -n 's/^FROM \(.*python.*\)$/\1/p' "$repository/docs/image.md")
mkdir -p "$images" "$cache/target" "$registry"
[ "$(id -u)" = 0 ] || die "must be root, as buildah without a user namespace is"
commands buildah:buildah debootstrap:debootstrap gcc:gcc

store() { buildah --root "$images/root" --runroot "$images/run" --storage-driver overlay "$@"; }

# A minimal Debian with a C compiler: all that the official Rust image has besides Rust.
builder() {
    local rootfs=$images/debian container
    store inspect --type image localhost/rust-builder >/dev/null 2>&1 && return
    say "making the builder image, once"
    rm -rf "$rootfs"
    # From where this machine has its own packages, which works behind a mirror as well.
    debootstrap --variant=minbase --include=gcc,libc6-dev bookworm "$rootfs" \
        "$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)" \
        >"$images/debootstrap.log" 2>&1 || die "debootstrap failed: see $images/debootstrap.log"
    container=$(store from scratch)
    store add --quiet "$container" "$rootfs" / >/dev/null
    store config --env PATH=/usr/local/rust/bin:/usr/bin:/bin --env CARGO_HOME=/cargo \
        --env CARGO_NET_OFFLINE=true "$container"
    store commit --quiet --rm "$container" localhost/rust-builder >/dev/null
    rm -rf "$rootfs"
}

# build TAG BUILDAH-ARGUMENT...: crates come from the machine's own store of them, so that the build needs
# no network, and what cargo made stays for the next build.
build() {
    local tag=$1
    shift
    store build --layers --isolation chroot --network host --build-arg RUST_IMAGE="$rust" \
        --build-arg PROFILE="$PROFILE" "${mounts[@]}" --tag "$tag" "$@" "$repository" \
        >"$images/${tag##*/}.log" 2>&1 || { tail -n 40 "$images/${tag##*/}.log" >&2; die "building $tag failed"; }
}

# tar NAME: writes the image down for the container runtime, unless its contents have been.
tar_of() {
    local id file
    id=$(store inspect --type image --format '{{.FromImageID}}' "localhost/$1")
    id=${id:0:12}
    file=$images/$1-$id.tar
    if [ ! -f "$file" ]; then
        store push --quiet "localhost/$1" "docker-archive:$file.new:localhost/$1:$id" >&2
        mv "$file.new" "$file"
    fi
    say "$1: $(($(stat --format %s "$file") / 1000)) kB, profile $PROFILE"
    # Clusters that run have older ones in their own store.
    find "$images" -name "$1-*.tar" -mmin +120 ! -path "$file" -delete
    printf 'localhost/%s:%s %s\n' "$1" "$id" "$file"
}

# The sandbox that every pod has, which the kubelet's documentation calls pause.
pause() {
    local container scratch
    [ -f "$images/pause.tar" ] && return
    scratch=$(mktemp -d)
    gcc -Os -static -s -o "$scratch/pause" "$here/pause.c"
    container=$(store from scratch)
    store copy --quiet "$container" "$scratch/pause" /pause >/dev/null
    store config --entrypoint '["/pause"]' "$container"
    store commit --quiet --rm "$container" localhost/pause:1 >/dev/null
    store push --quiet localhost/pause:1 "docker-archive:$images/pause.tar.new:localhost/pause:1" >&2
    mv "$images/pause.tar.new" "$images/pause.tar"
    rm -r "$scratch"
}

# A server for scenarios that have MongoDB in the cluster: that of all other tests, with its libraries.
mongod() {
    local server rootfs file container
    server=$(realpath "${MONGOD:-$("$repository/tests/tools/setup")}")
    [ "$images/gate-mongod.tar" -nt "$server" ] && return
    rootfs=$(mktemp -d)
    for file in $(ldd "$server" | grep -o '/[^ ]*'); do install -D "$file" "$rootfs$file"; done
    install "$server" "$rootfs/mongod"
    container=$(store from scratch)
    store copy --quiet "$container" "$rootfs" / >/dev/null
    store config --entrypoint '["/mongod"]' --user 65532:65532 "$container"
    store commit --quiet --rm "$container" localhost/gate-mongod:1 >/dev/null
    store push --quiet localhost/gate-mongod:1 "docker-archive:$images/gate-mongod.tar.new:localhost/gate-mongod:1" >&2
    mv "$images/gate-mongod.tar.new" "$images/gate-mongod.tar"
    rm -r "$rootfs"
}

# A Debian with Python and pip, laid out and not installed, in the place of the image that the guide's Dockerfile
# takes. Packages come as files: the helper, and what it needs for the Python that Debian has.
python_base() {
    local scratch container version helper wheels=$images/wheels
    helper=$(cd "$repository/clients/python" && cat pyproject.toml README.md upgrade_gate/*.py | sha256sum)
    [ "$(cat "$wheels/helper" 2>/dev/null)" = "$helper" ] && store inspect --type image "$python" >/dev/null 2>&1 && return
    say "making the Python image, once"
    scratch=$(mktemp -d)
    mkdir -p "$scratch"/{archives/partial,rootfs,python,wheels}
    : >"$scratch/status"
    python_packages "$scratch" || { apt-get update && python_packages "$scratch"; } >>"$images/python.log" 2>&1 ||
        die "apt-get failed: see $images/python.log"
    for package in "$scratch"/archives/*.deb; do dpkg-deb --extract "$package" "$scratch/rootfs"; done
    rm -rf "$scratch"/rootfs/usr/share/{doc,info,locale,man}
    version=$(readlink "$scratch/rootfs/usr/bin/python3")
    cp -r "$repository"/clients/python/{pyproject.toml,README.md,upgrade_gate} "$scratch/python"
    { python3 -m pip wheel --no-deps --wheel-dir "$scratch/wheels" "$scratch/python" &&
        python3 -m pip download --only-binary=:all: --python-version "${version#python}" --dest "$scratch/wheels" \
            --platform "manylinux2014_$(uname -m)" 'pymongo>=4.4'; } >>"$images/python.log" 2>&1 ||
        die "pip failed: see $images/python.log"
    rm -rf "$wheels"
    mv "$scratch/wheels" "$wheels"
    container=$(store from scratch)
    store add --quiet "$container" "$scratch/rootfs" / >/dev/null
    # Debian's pip asks for the last; the official image's does not.
    store config --env PATH=/usr/local/bin:/usr/bin:/bin --env PIP_NO_INDEX=1 --env PIP_FIND_LINKS=/wheels \
        --env PIP_BREAK_SYSTEM_PACKAGES=1 "$container"
    store commit --quiet --rm "$container" "$python" >/dev/null
    # what was installed on another one is not used again
    printf '%s\n' "$helper" >"$wheels/helper"
    rm -r "$scratch"
}

python_packages() {
    apt-get -o Dir::State::status="$1/status" -o Dir::Cache::archives="$1/archives" -o APT::Sandbox::User=root \
        --download-only --no-install-recommends --yes install python3-pip dash coreutils >"$images/python.log" 2>&1
}

# An application's own image, by the Dockerfile that the guide shows.
gate_python() {
    local folder
    python_base
    folder=$(mktemp -d)
    sed -n '/^<!-- dockerfile: programs -->$/,/^```$/p' "$repository/docs/image.md" | grep -v -e '^<!--' -e '^```' >"$folder/Dockerfile"
    cp -r "$here/../e2e/python/upgrades" "$folder"
    store tag localhost/upgrade-gate "$(sed -n 's/^COPY --from=\([^ ]*\) .*/localhost\/\1/p' "$folder/Dockerfile")"
    (repository=$folder && mounts=(-v "$images/wheels:/wheels:ro") && build localhost/gate-python)
    rm -r "$folder"
}

rust_image() {
    mounts=(-v "$cache/target:/src/target")
    rust=${RUST_IMAGE:-}
    if [ -z "$rust" ]; then
        builder
        rust=localhost/rust-builder
        (cd "$repository" && cargo fetch --locked --quiet)
        mounts+=(-v "$registry:/cargo/registry" -v "$(rustc --print sysroot):/usr/local/rust:ro")
    fi
}

# Such a program has no profile e2e: its release is built without what takes minutes.
own_app() {
    local folder=$1 container
    rust_image
    container=$(store from --pull-never "$rust")
    store config --env CARGO_PROFILE_RELEASE_LTO=off --env CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
        --env CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 "$container"
    store commit --quiet --rm "$container" localhost/rust-builder-quick >/dev/null
    store build --isolation chroot --network host --build-arg RUST_IMAGE=localhost/rust-builder-quick \
        "${mounts[@]}" --build-context upgrade-gate="$repository" --tag localhost/own-app "$folder" \
        >"$images/own-app.log" 2>&1 || { tail -n 40 "$images/own-app.log" >&2; die "building own-app failed"; }
    rm -f "$folder/image.tar"
    store push --quiet localhost/own-app "docker-archive:$folder/image.tar:localhost/own-app:1" >&2
    printf 'localhost/own-app:1 %s\n' "$folder/image.tar"
}

# As they are released, from nothing: no target folder outside the build, and the same time in every file.
released() {
    local folder=$1 name
    shift
    mounts=("${mounts[@]:2}")
    for name in datalab-upgrade upgrade-gate; do
        build "localhost/release-$name" --timestamp "${SOURCE_DATE_EPOCH:-0}" --target "$name" "$@"
        rm -f "$folder/$name.tar"
        store push --quiet "localhost/release-$name" "oci-archive:$folder/$name.tar" >&2
    done
}

all() {
    rust_image
    pause
    mongod
    build localhost/datalab-upgrade --file "$repository/Dockerfile"
    build localhost/upgrade-gate --file "$repository/Dockerfile" --target upgrade-gate
    build localhost/gate-scenario --file "$here/Dockerfile" --target scenario
    build localhost/gate-lab --file "$here/Dockerfile" --target lab
    gate_python
    for name in pause gate-mongod; do printf 'localhost/%s:1 %s\n' "$name" "$images/$name.tar"; done
    for name in datalab-upgrade upgrade-gate gate-scenario gate-lab gate-python; do tar_of "$name"; done
}

case ${1:-} in
    "") locked images all ;;
    release)
        folder=$(cd "$2" && pwd)
        shift 2
        rust_image
        pause
        locked release released "$folder" "$@"
        ;;
    own-app) locked images own_app "$(cd "$2" && pwd)" ;;
    *) die "unknown: $1" ;;
esac
