#!/bin/bash
# Lays an OCI archive of one image out as agnhost's fake-registry-server reads it: an index by tag, and manifests and
# blobs by digest.
# usage: tests/conformance/fake-registry.sh ARCHIVE.tar OUT_DIR NAME TAG
set -euo pipefail
archive=$(realpath "${1:?usage: tests/conformance/fake-registry.sh ARCHIVE.tar OUT_DIR NAME TAG}")
root=${2:?usage: tests/conformance/fake-registry.sh ARCHIVE.tar OUT_DIR NAME TAG}/${3:?}
tag=${4:?}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xf "$archive"

# put KIND DIGEST FILE
put() {
  local folder=$root/$1/sha256/${2:0:2}/$2
  mkdir -p "$folder"
  cp "$3" "$folder/data"
}

manifest=$(jq -r '.manifests[0].digest | ltrimstr("sha256:")' "$work/index.json")
jq -c '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
  manifests: [.manifests[0] | {mediaType, digest, size, platform: {os: "linux", architecture: "amd64"}}]}' \
  "$work/index.json" >"$work/tagged"
index=$(sha256sum "$work/tagged" | cut -d' ' -f1)
put manifests "$index" "$work/tagged"
echo "sha256:$index" >"$root/manifests/$tag"
put manifests "$manifest" "$work/blobs/sha256/$manifest"
for blob in $(jq -r '.config, .layers[] | .digest | ltrimstr("sha256:")' "$work/blobs/sha256/$manifest"); do
  put blobs "$blob" "$work/blobs/sha256/$blob"
done
