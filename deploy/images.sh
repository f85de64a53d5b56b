#!/bin/bash
# Builds the two images that the demo and the tests need, from Debian's busybox-static and a few lines of C,
# as OCI archives that `ctr images import` takes. No registry is asked.
# usage: deploy/images.sh OUT_DIR     makes OUT_DIR/pause.tar and OUT_DIR/demo.tar
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "${1:?usage: deploy/images.sh OUT_DIR}")
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# blob FILE: moves a file among the blobs of $work/oci and prints `"digest":"...","size":N`.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$work/oci/blobs/sha256/$digest"
  printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}

# pack ROOT CONFIG NAME OUT.tar: one layer of everything under ROOT.
pack() {
  local root=$1 config=$2 name=$3 archive=$4 layer diff
  rm -rf "$work/oci"
  mkdir -p "$work/oci/blobs/sha256"
  tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer" .
  diff=$(sha256sum "$work/layer" | cut -d' ' -f1)
  layer=$(blob "$work/layer")
  printf '{"architecture":"amd64","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$config" "$diff" >"$work/config"
  config=$(blob "$work/config")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",%s}]}' \
    "$config" "$layer" >"$work/manifest"
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$(blob "$work/manifest")" "$name" "${name##*:}" >"$work/oci/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
  # Renamed into place: an interrupted build leaves no half archive.
  tar -C "$work/oci" -cf "$archive.part" .
  mv "$archive.part" "$archive"
}

mkdir -p "$work/pause"
cc -Os -static -s -o "$work/pause/pause" "$here/pause.c"
pack "$work/pause" '{"Entrypoint":["/pause"]}' coracle.dev/pause:1 "$out/pause.tar"

root=$work/demo
mkdir -p "$root"/{bin,etc,tmp,www,proc,sys,dev,var,root}
chmod 1777 "$root/tmp"
busybox=$(command -v busybox)
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
cp "$here/demo/index.html" "$root/www/index.html"
# A process with number 1 ignores SIGTERM unless it says otherwise: the shell does, so that a pod ends at once.
pack "$root" '{"Cmd":["sh","-c","trap \"exit 0\" TERM; httpd -f -v -p 8080 -h /www & wait"],"Env":["PATH=/bin"],"ExposedPorts":{"8080/tcp":{}}}' \
  coracle.dev/demo:1 "$out/demo.tar"
