# Starts a job under a transient unit, at most once per run. Arguments: run, unit, login user, limit in seconds,
# fresh|resume, size of the job in bytes. Standard input: the job as a shell script. Says `exited`, `running`, `started`, `gone` or `lost`.
set -eu
root=${LANE_HOST_ROOT:-}
runs=$root/var/lib/lane/runs
run=$runs/$1 unit=$2 user=$3 limit=$4 how=$5 size=$6 name=$1
mkdir -p "$root/run/lane/locks" "$runs"
exec 9>"$root/run/lane/locks/$unit"
flock -w 60 9

state() { systemctl show --property="$1" --value "$unit"; }
active() { case $(state ActiveState) in active | activating | deactivating | reloading | refreshing) ;; *) return 1 ;; esac; }
ours() { [ "$(state Description)" = "lane run $name" ]; }

if [ -e "$run/exit" ]; then echo exited; exit; fi
if active && ours; then echo running; exit; fi
# It may have ended between the two looks.
if [ -e "$run/exit" ]; then echo exited; exit; fi
if [ -e "$run/started" ]; then
    if [ "$how" = fresh ]; then echo gone; else echo lost; fi
    exit
fi
if [ "$how" != fresh ]; then echo lost; exit; fi

systemctl stop "$unit" 2>/dev/null || true
systemctl reset-failed "$unit" 2>/dev/null || true
# systemd forgets an ended transient unit a moment later, and takes no new one of that name before.
tries=0
while [ "$(state LoadState)" != not-found ] && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done

# Of old runs the last 20 stay.
for old in $(ls "$runs" | sort | head -n -20); do
    if [ "$old" != "$name" ] && ! systemctl is-active --quiet "$(cat "$runs/$old/unit" 2>/dev/null)"; then
        rm -rf "${runs:?}/$old"
    fi
done

umask 077
mkdir -p "$run"
cat >"$run/job"
# A caller that was killed while it sent ends the input early, and half a job must not run.
if [ "$(wc -c <"$run/job")" -ne "$size" ]; then
    rm -rf "$run"
    echo 'the job did not arrive whole' >&2
    exit 1
fi
cat >"$run/wrapper" <<'WRAPPER'
#!/bin/sh
run=${0%/*}
# In a subshell, so that no variable of the job can reach what follows.
(. "$run/job")
echo "$?" >"$run/exit.new"
mv "$run/exit.new" "$run/exit"
WRAPPER
chmod 0700 "$run/wrapper"
echo "$unit" >"$run/unit"
: >"$run/output"
chmod 0711 "$runs"
chown -R "$user:" "$run"
: >"$run/started"
# exec: what systemd starts must not hold the lock.
systemd-run --quiet --no-ask-password --unit="$unit" --description="lane run $name" --service-type=exec \
    --property=User="$user" --property=RuntimeMaxSec="$limit" --property=TimeoutStopSec=10 \
    --property=KillMode=control-group --property=OOMPolicy=stop \
    --property=StandardOutput=append:"$run/output" --property=StandardError=append:"$run/output" \
    "$run/wrapper" </dev/null >&2 9>&- || { code=$?; rm -f "$run/started"; exit "$code"; }
echo started
