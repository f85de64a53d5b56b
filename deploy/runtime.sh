#!/bin/bash
# The container runtime of one Coracle host: an instance of containerd with its own root, state and socket.
# usage: deploy/runtime.sh start STATE_DIR RUN_DIR [IMAGES_DIR]    starts it (nothing to do if it runs) and loads the images
#        deploy/runtime.sh stop  STATE_DIR RUN_DIR                 ends it, its shims and its mounts
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage="usage: deploy/runtime.sh start STATE_DIR RUN_DIR [IMAGES_DIR] | stop STATE_DIR RUN_DIR"
action=${1:?$usage} state=${2:?$usage} run=${3:?$usage}
socket=$run/containerd.sock
pidfile=$run/containerd.pid
# shellcheck source=deploy/places.sh
. "$here/places.sh"

answers() { ctr --address "$socket" --connect-timeout 1s version >/dev/null 2>&1; }
ours() { [ -r "$pidfile" ] && [ "$({ tr '\0' ' ' <"/proc/$(cat "$pidfile")/cmdline"; } 2>/dev/null)" = "containerd --config $run/containerd.toml " ]; }

start() {
  local images=$1
  install -d -m 0711 "$state" "$run"
  mkdir -p "$run/cni/bin" "$run/cni/net.d"
  # Shims and the loopback plugin have these places built in: whether somebody else had them before is noted.
  for place in /run/containerd /var/lib/cni; do
    [ -e "$place" ] || echo "$place" >>"$state/places"
  done
  if ! ours; then
    sed -e "s#@STATE@#$state#g" -e "s#@RUN@#$run#g" "${CORACLE_CONTAINERD_TOML:-$here/containerd.toml}" >"$run/containerd.toml"
    setsid containerd --config "$run/containerd.toml" >>"$state/containerd.log" 2>&1 </dev/null &
    echo $! >"$pidfile"
    for _ in $(seq 1 150); do
      answers && break
      ours || { echo "containerd ended at once; its log, $state/containerd.log, ends with:" >&2; tail -n 5 "$state/containerd.log" >&2; exit 1; }
      sleep 0.1
    done
    answers || { echo "containerd did not answer on $socket within 15 s; see $state/containerd.log" >&2; exit 1; }
  fi
  [ -n "$images" ] || return 0
  for image in "$images"/*.tar; do
    ctr --address "$socket" --namespace k8s.io images import "$image" >/dev/null
  done
}

stop() {
  if ours; then
    pid=$(cat "$pidfile")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 1 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  fi
  # Shims outlive their containerd; ours are those that were told our socket.
  for cmdline in /proc/[0-9]*/cmdline; do
    if { tr '\0' ' ' <"$cmdline"; } 2>/dev/null | grep -qF -- "-address $socket "; then
      shim=$(basename "$(dirname "$cmdline")")
      # A container that still runs is a child of its shim.
      pkill -9 -P "$shim" 2>/dev/null || true
      kill -9 "$shim" 2>/dev/null || true
    fi
  done
  # Deepest first: overlay roots, shared memory, network namespaces.
  mounts </proc/self/mounts | while IFS= read -rd '' mount; do umount -l "$mount" || true; done
  refuse_mounts
  # What is not empty is another host's, which notes nothing and takes nothing away.
  if [ -r "$state/places" ]; then
    while read -r place; do
      [ -d "$place" ] || continue
      # Shims that were killed leave sockets that nobody listens at. Another host may take the same away meanwhile.
      { find "$place" -type s || true; } | while read -r dead; do
        # Asked, since the kernel's list has only those of this network namespace. curl's 7: nobody takes the connection.
        code=0
        curl -s -o /dev/null --max-time 1 --unix-socket "$dead" http://shim/ || code=$?
        [ $code != 7 ] || rm -f "$dead"
      done
      find "$place" -depth -type d -empty -delete || true
    done <"$state/places"
  fi
  rm -rf "$state/places" "$run/containerd" "$socket" "$socket.ttrpc" "$pidfile" "$run/containerd.toml" "$state/containerd" "$state/containerd.log"
}

case $action in
start) start "${4:-}" ;;
stop) stop ;;
*) echo "$usage" >&2; exit 2 ;;
esac
