#!/usr/bin/env bash
# Ends what up.sh started, and that alone: its pods, every process in its network namespace, its mounts
# and cgroups. down.sh STATE. Whatever was there and is not is no error: it also ends half a start.
set -u
. "$(dirname "$0")/lib.sh"
export PATH=$PATH:/usr/sbin:/sbin
state=$(realpath -m "$1") name=$(basename "$1")
ctr() { "$bin/ctr" -a "$state/ctd/c.sock" -n k8s.io "$@" 2>/dev/null; }

# gone SECONDS COMMAND...: waits until COMMAND prints nothing.
gone() {
    local tries=$(($1 * 20))
    shift
    while [ -n "$("$@" 2>/dev/null)" ] && [ $((tries--)) -gt 0 ]; do sleep 0.05; done
}
# One a hierarchy; only with version 2 there is but one.
cgroups() { ls -d /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name" 2>/dev/null; }

# First those that would start pods anew.
for program in kubelet kube-controller-manager kube-scheduler; do
    [ -f "$state/pids/$program" ] && kill -KILL "$(cat "$state/pids/$program")" 2>/dev/null
done
running() { ctr tasks ls | awk '$3 == "RUNNING" { print $1 }'; }
if [ -S "$state/ctd/c.sock" ]; then
    for task in $(running); do ctr tasks kill -s KILL "$task"; done
    gone 5 running
fi
for signal in TERM KILL; do
    for pid in $(ip netns pids "$name" 2>/dev/null); do kill "-$signal" "$pid" 2>/dev/null; done
    gone 3 ip netns pids "$name"
done
# What is not in the network namespace: the processes of pods, where the runtime was not there to end them.
for group in $([ -z "$(cgroups)" ] || find $(cgroups) -type d 2>/dev/null); do
    xargs -r kill -KILL <"$group/cgroup.procs" 2>/dev/null
done
mounts() { awk -v below="$state/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r; }
mounts | xargs -r umount --lazy
emptied() { for group in $(cgroups); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; done; cgroups; }
gone 5 emptied
ip netns del "$name" 2>/dev/null
rm -rf "$state"
left=$({ ip netns pids "$name"; mounts; cgroups; } 2>/dev/null)
[ -z "$left" ] && [ ! -e "$state" ] || die "not all of $state is gone: $left"
