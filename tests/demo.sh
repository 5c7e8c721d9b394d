#!/usr/bin/env bash
# Takes specs/local.yaml through its whole life on a host that boots here, and proves that nothing of it is left.
set -euo pipefail
cd "$(dirname "$0")/.."
lane=$1
started=$(date +%s)
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
export LANE_STATE_DIR=${LANE_STATE_DIR:-state}

# Everything on this machine that carries the lane's lineage; other lanes are nobody's business here.
leftovers() {
  find /var/lib/lane/nspawn -mindepth 1 -maxdepth 1 -name "*-$1*" 2>/dev/null | sed 's/^/folder /' || true
  awk -v id="-$1/" 'index($2, id) {print "mount " $2}' /proc/mounts
  ip -brief link | awk -v id="$1" 'index($1, id) {print "veth " $1}'
  nft list tables | awk -v id="lane_$1" '$3 == id {print "nft table " $3}'
  pgrep -fa "systemd-nspawn .*--machine=ln-$1" | sed 's/^/container /' || true
}

say "lane plan specs/local.yaml"
"$lane" plan specs/local.yaml
say "lane apply specs/local.yaml -y"
"$lane" apply specs/local.yaml -y
say "lane status"
"$lane" status local
say "lane test"
"$lane" test local
say "lane apply specs/local.yaml -y, again: nothing to do"
"$lane" apply specs/local.yaml -y
lineage=$("$lane" show local --format json | sed -n 's/.*"lineage": "[^"]*\(.\{8\}\)".*/\1/p' | head -n 1)
say "what the host of lineage $lineage is on this machine"
present=$(leftovers "$lineage")
echo "$present"
[ -n "$present" ] || { echo "the listing sees nothing of a host that is up: it would prove nothing" >&2; exit 1; }
say "lane destroy -y"
"$lane" destroy local -y
say "what is left of it"
left=$(leftovers "$lineage")
if [ -n "$left" ]; then
  echo "$left"
  echo "the demo left something behind" >&2
  exit 1
fi
echo "nothing: no folder, no mount, no veth, no nft rule, no container"
say "done in $(($(date +%s) - started)) s"
