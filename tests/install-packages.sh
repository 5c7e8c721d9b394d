#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages named, if any is missing.
set -euo pipefail
missing=()
for package in "$@"; do
  [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
echo "installing ${missing[*]}"
$sudo apt-get update -qq
# No recommends: a test machine needs no mail server for a container tool.
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
