#!/usr/bin/env bash
# Licences, bans and sources of the dependencies; the arrows between modules are checked by a test.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v cargo-deny >/dev/null; then
  cargo deny check --hide-inclusion-graph licenses bans sources
else
  echo "left out: cargo-deny is not installed (cargo install --locked cargo-deny)"
fi
# The lock file may grow only knowingly: every crate is compiled by every user.
limit=520
count=$(grep -c '^name = ' Cargo.lock)
[ "$count" -le "$limit" ] || { echo "Cargo.lock has $count packages, the ceiling is $limit: raise it here if that is right"; exit 1; }
