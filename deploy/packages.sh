#!/bin/bash
# Installs what Coracle needs from Debian's packages, if anything is missing. Needs root only then.
# usage: deploy/packages.sh [MORE_PACKAGES...]
set -euo pipefail
wanted=(ca-certificates containerd runc containernetworking-plugins nftables iptables conntrack iproute2
  busybox-static procps kmod util-linux curl gcc libc6-dev make git "$@")
missing=()
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "These packages are missing, and installing them needs root: ${missing[*]}" >&2
  echo "Run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
# No service is started by the installation: Coracle runs an instance of containerd of its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
