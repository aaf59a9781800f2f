# What the scripts beside this one share. Sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
mkdir -p "$repository/.cache/cluster"
# The cache may be a link to one that several clones share.
cache=$(cd "$repository/.cache/cluster" && pwd -P)
bin=$cache/bin

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# commands PACKAGE:COMMAND... installs, as root on Debian, the packages whose command is missing.
commands() {
    local pair missing=()
    for pair; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair#*:}" >/dev/null || missing+=("${pair%:*}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing ${missing[*]}"
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
            >"$cache/apt-get.log" 2>&1 || die "apt-get failed: see $cache/apt-get.log"
    else
        die "missing: apt-get install ${missing[*]}"
    fi
}

# Two runs from two clones share the cache: one builds, the other waits.
# locked NAME COMMAND...: what it leaves running does not hold the lock.
locked() {
    local name=$1
    shift
    ( flock 9 && "$@" 9>&- ) 9>"$cache/$name.lock"
}
