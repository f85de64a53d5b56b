#!/bin/bash
# Undoes deploy/up.sh: no process, namespace, link, rule, route, mount, cgroup, file or sysctl of Coracle stays.
# Packages and kernel modules do.
# usage: deploy/down.sh      with the same CORACLE_STATE_DIR and CORACLE_RUN_DIR as at up
set -euo pipefail
cd "$(dirname "$0")/.."
state=${CORACLE_STATE_DIR:-/var/lib/coracle} run=${CORACLE_RUN_DIR:-/run/coracle}
# shellcheck source=deploy/places.sh
. deploy/places.sh
coracle=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release/coracle

if [ "$(id -u)" != 0 ]; then
  echo "make down takes containers and packet rules away, which needs root. Run: sudo make down" >&2
  exit 1
fi
if [ ! -e "$state" ] && [ ! -e "$run" ]; then
  echo "Nothing to take down: neither $state nor $run exists."
  exit 0
fi
if [ -e "$state/config.yaml" ] && [ ! -x "$coracle" ]; then
  echo "$coracle is not there, and only it can take the rules, routes and cgroups away." >&2
  echo "Build it again (cargo build --release), then run make down." >&2
  exit 1
fi
if coracle_runs; then
  pid=$(cat "$run/coracle.pid")
  if kill "$pid" 2>/dev/null; then
    echo "==> Stopping coracle (pid $pid)"
    for _ in $(seq 1 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  fi
fi
if [ -e "$state/config.yaml" ]; then
  # After a crash or a reboot nothing runs, and what pods left is only taken away through their runtime.
  ./deploy/runtime.sh start "$state" "$run"
  echo "==> Removing pods, rules, links and cgroups"
  "$coracle" reset --config "$state/config.yaml" --yes
fi
echo "==> Stopping containerd"
./deploy/runtime.sh stop "$state" "$run"
refuse_mounts
rm -rf "$state" "$run"
echo "The machine is as it was."
