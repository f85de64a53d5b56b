#!/bin/bash
# Takes away everything that deploy/install.sh and Coracle made on this machine: pods, rules, links, cgroups, the cluster's
# state, units, files and kernel settings. Packages and loaded kernel modules stay.
# usage: deploy/uninstall.sh [--keep-state]      as root; --keep-state keeps /var/lib/coracle and /etc/coracle
set -euo pipefail
keep_state=no
case ${1:-} in
"") ;;
--keep-state) keep_state=yes ;;
*) echo "usage: deploy/uninstall.sh [--keep-state]" >&2; exit 2 ;;
esac
say() { printf '==> %s\n' "$*"; }
[ "$(id -u)" = 0 ] || { echo "uninstall.sh: it needs root. Run: sudo $0" >&2; exit 1; }
coracle=/usr/local/bin/coracle
state=$(sed -n "s/^stateDir: *[\"']\{0,1\}\([^\"' #]*\).*/\1/p" /etc/coracle/config.yaml 2>/dev/null || true)
units=()
for unit in coracle.service coracle-server.service coracle-node.service; do
  [ -e /etc/systemd/system/$unit ] && units+=("$unit")
done

if [ ${#units[@]} -gt 0 ]; then
  say "Stopping ${units[*]}"
  systemctl disable --quiet --now "${units[@]}"
fi
if [ -e /etc/systemd/system/coracle.service ] || [ -e /etc/systemd/system/coracle-node.service ]; then
  if [ ! -x $coracle ]; then
    echo "uninstall.sh: $coracle is not there, and only it can take the rules, routes and cgroups away." >&2
    echo "Put it back, then run this again." >&2
    exit 1
  fi
  # The runtime ends the pods; it may have been stopped by hand.
  systemctl start containerd.service
  say "Removing pods, rules, links and cgroups"
  if [ $keep_state = yes ]; then $coracle reset --yes --keep-state; else $coracle reset --yes; fi
fi

say "Removing units, settings and files"
for unit in "${units[@]}"; do
  rm -f "/etc/systemd/system/$unit"
done
[ ${#units[@]} -eq 0 ] || systemctl daemon-reload
systemctl reset-failed "${units[@]}" 2>/dev/null || true
if [ -e /etc/sysctl.d/90-coracle.conf ]; then
  rm -f /etc/sysctl.d/90-coracle.conf
  [ ! -e /var/lib/coracle/sysctls.before ] || sysctl -e -q -p /var/lib/coracle/sysctls.before || true
fi
rm -f /etc/modules-load.d/coracle.conf
toml=/etc/containerd/config.toml
if grep -qF "# Written by Coracle's installer" $toml 2>/dev/null; then
  if [ -e $toml.before-coracle ]; then mv -f $toml.before-coracle $toml; else rm -f $toml; fi
  systemctl restart containerd.service
fi
# Image archives that the installer loaded stay in the runtime, as images do; `crictl rmi` or `ctr images rm` removes them.
rm -rf /run/coracle
if [ $keep_state = no ]; then
  # A folder that the configuration names may hold something else too: only what is ours goes.
  if [ -n "$state" ] && [ "$state" != /var/lib/coracle ]; then
    for name in node.kubeconfig joined.yaml node-address store pki admin.kubeconfig network cni; do rm -rf "${state:?}/$name"; done
    rmdir "$state" 2>/dev/null || true
  fi
  rm -rf /var/lib/coracle /etc/coracle /etc/default/coracle
fi
rm -f $coracle $coracle-cni
say "Coracle is gone from this machine."
