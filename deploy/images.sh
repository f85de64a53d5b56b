#!/bin/bash
# Builds the two images that the demo and the tests need, from Debian's busybox-static and a few lines of C,
# as OCI archives that `ctr images import` takes. No registry is asked.
# usage: deploy/images.sh OUT_DIR     makes OUT_DIR/pause.tar and OUT_DIR/demo.tar
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { echo "usage: deploy/images.sh OUT_DIR" >&2; exit 2; }
out=$(realpath -m "$1")
busybox=$(command -v busybox || true)
if ! command -v cc >/dev/null || [ "$(dpkg-query -Wf '${db:Status-Status}' busybox-static 2>/dev/null)" != installed ] || [ -z "$busybox" ]; then
  echo "images.sh: a C compiler and a busybox without libraries go into the images. Run: sudo deploy/packages.sh" >&2
  exit 1
fi
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck source=deploy/pack.sh
. "$here/pack.sh"

mkdir -p "$work/pause"
cc -Os -static -s -o "$work/pause/pause" "$here/pause.c"
pack "$work/pause" '{"Entrypoint":["/pause"]}' "$out/pause.tar" coracle.dev/pause:1

root=$work/demo
mkdir -p "$root"/{bin,etc,tmp,www,proc,sys,dev,var,root}
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
cp "$here/demo/index.html" "$root/www/index.html"
# A process with number 1 ignores SIGTERM unless it says otherwise: the shell does, so that a pod ends at once.
pack "$root" '{"Cmd":["sh","-c","trap \"exit 0\" TERM; httpd -f -v -p 8080 -h /www & wait"],"Env":["PATH=/bin"],"ExposedPorts":{"8080/tcp":{}}}' \
  "$out/demo.tar" coracle.dev/demo:1
