#!/usr/bin/env bash
# moto, an emulator of AWS that nobody here wrote, into the target folder; the tests that need it say when it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
moto="${CARGO_TARGET_DIR:-target}/moto"
[ -x "$moto/bin/moto_server" ] && exit 0
if ! python3 -m venv "$moto" || ! "$moto/bin/pip" install --quiet --disable-pip-version-check 'moto[ec2,server]==5.2.5'; then
  echo "left out: moto could not be installed" >&2
  rm -rf "$moto"
  [ -z "${CI:-}" ] || exit 1
fi
