#!/usr/bin/env bash
# Every test; with nextest where it is installed, else with cargo's own runner.
set -euo pipefail
cd "$(dirname "$0")/.."
export INSTA_UPDATE=${INSTA_UPDATE:-no} NO_COLOR=1
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --no-fail-fast "$@"
else
  cargo test --locked "$@"
fi
