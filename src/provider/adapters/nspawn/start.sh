#!/bin/sh
# Supervises the container. Arguments: MACHINE, then systemd-nspawn and its arguments.
#
# Without systemd as process 1 nobody gives the container a control group of its own, and the systemds of two
# containers in one group would each take the other's services for their own.
set -eu
machine=$1
shift
if [ ! -d /run/systemd/system ]; then
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        [ -e "$hierarchy/cgroup.procs" ] || continue
        mkdir -p "$hierarchy/$machine"
        echo $$ >"$hierarchy/$machine/cgroup.procs"
    done
fi
# A container that reboots ends with 133 (systemd-nspawn(1), --keep-unit), and whoever started it starts it again.
code=133
while [ "$code" -eq 133 ]; do
    code=0
    "$@" || code=$?
done
exit "$code"
