#!/bin/sh
# Becomes the container's supervisor. Arguments: MACHINE, then systemd-nspawn and its arguments.
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
exec "$@"
