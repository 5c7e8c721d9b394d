# Arms the host's own lease timer. Arguments: end in seconds since 1970, the same for OnCalendar=, and `move` when it is
# to stay so: at every boot cloud-init calls this with the end that the host was made with.
expiry=$1 calendar=$2 moved=/var/lib/lane/lease
if [ "${3:-}" = move ]; then
    mkdir -p "${moved%/*}"
    printf '%s\n%s\n' "$expiry" "$calendar" >"$moved.new"
    sync "$moved.new"
    mv "$moved.new" "$moved"
elif [ -s "$moved" ]; then
    { read -r expiry; read -r calendar; } <"$moved"
fi
cat >/etc/systemd/system/lane-lease.service <<'UNIT'
[Unit]
Description=Power off: the lease of this host has ended
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/usr/bin/systemctl poweroff
UNIT
cat >/etc/systemd/system/lane-lease.timer <<UNIT
[Unit]
Description=Lease of this host
DefaultDependencies=no

[Timer]
OnCalendar=$calendar
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
UNIT
systemctl daemon-reload
systemctl enable lane-lease.timer
systemctl restart --no-block lane-lease.timer
if [ "$(date +%s)" -ge "$expiry" ]; then systemctl --no-block poweroff; fi
