#!/bin/sh
# Builds an image once. Runs under `flock` on IMAGE.lock, in its own session: a lane that is killed meanwhile
# neither stops it nor starts a second one.
# Arguments: IMAGE RELEASE PACKAGES [MIRROR]; the packages are separated by commas.
set -eu
image=$1 release=$2 packages=$3
shift 3
temp=$image.tmp

[ ! -d "$image" ] || exit 0
exec >"$image.log" 2>&1

# Whatever lies here under a lock that nobody holds was left by a build that died.
for stale in "${image%/*}"/*.tmp; do
    [ -d "$stale" ] || continue
    if [ "$stale" = "$temp" ]; then
        rm -rf --one-file-system "$stale"
    else
        flock --nonblock "${stale%.tmp}.lock" rm -rf --one-file-system "$stale" || :
    fi
done

# Documents and translations are a third of the files and nobody reads them on a host that lives for an hour.
mmdebstrap --mode=root --variant=minbase --format=directory --include="$packages" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-include=/usr/share/locale/locale.alias' \
    "$release" "$temp" "$@"

cd "$temp"
# Keys and ids are each host's own. An empty machine-id is filled at boot; a missing one would mean 'first boot'.
rm -f etc/ssh/ssh_host_*
: >etc/machine-id
rm -f var/lib/dbus/machine-id etc/hostname etc/resolv.conf

# Housekeeping that only costs time on a host that lives for an hour.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer man-db.timer motd-news.timer systemd-pcrphase.service console-getty.service \
    systemd-networkd-wait-online.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done

ln -sf /lib/systemd/system/systemd-networkd.service etc/systemd/system/multi-user.target.wants/
echo LANG=C.UTF-8 >etc/default/locale

cat >etc/cloud/cloud.cfg.d/90-lane.cfg <<'END'
# The seed is on the disk: no other data source is looked for, and the mirror of the image stays. networkd itself,
# since for netplan an older cloud-init wants a udev, which a container has not.
datasource_list: [NoCloud]
system_info: {network: {renderers: [networkd]}}
apt: {preserve_sources_list: true}
locale: false
ssh_genkeytypes: [ed25519]
END
echo 'datasource: NoCloud' >etc/cloud/ds-identify.cfg
echo 'policy: enabled' >>etc/cloud/ds-identify.cfg

cd /
mv -T "$temp" "$image"
echo 'lane: image is complete'
