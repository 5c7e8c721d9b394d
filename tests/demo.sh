#!/usr/bin/env bash
# Takes specs/local.yaml through its whole life on a host that boots here, and proves that nothing of it is left.
set -euo pipefail
cd "$(dirname "$0")/.."
lane=$1
started=$(date +%s)
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
export LANE_STATE_DIR=${LANE_STATE_DIR:-state}

leftovers() {
  find /var/lib/lane/nspawn -mindepth 1 -maxdepth 1 -name 'lane-local-*' 2>/dev/null | sed 's/^/folder /' || true
  awk '$2 ~ /\/lane-local-/ {print "mount " $2}' /proc/mounts
  ip -brief link 2>/dev/null | awk '$1 ~ /^ve-ln-/ {print "veth " $1}'
  nft list tables 2>/dev/null | awk '$3 ~ /^lane_/ {print "nft table " $3}' || true
  pgrep -fa 'systemd-nspawn.*--machine=ln-' 2>/dev/null | sed 's/^/process /' || true
}

before=$(leftovers)
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
say "lane destroy -y"
"$lane" destroy local -y
say "what is left on this machine"
after=$(leftovers)
new=$(comm -13 <(sort <<<"$before") <(sort <<<"$after"))
if [ -n "$new" ]; then
  echo "$new"
  echo "the demo left something behind" >&2
  exit 1
fi
echo "nothing: no container, no mount, no veth, no nft rule"
say "done in $(($(date +%s) - started)) s"
