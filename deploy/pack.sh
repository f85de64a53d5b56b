#!/bin/bash
# Packs folders as OCI archives that `ctr images import` takes. Sourced; the caller has made a folder $work.
: "${work:?the caller of pack.sh makes a folder}"

# blob FILE: moves a file among the blobs of $work/oci and prints `"digest":"...","size":N`.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$work/oci/blobs/sha256/$digest"
  printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}

# pack ROOT[:ROOT...] CONFIG OUT.tar NAME...: an image of one layer for each of the roots, by each of the names.
pack() {
  local roots root config=$2 archive=$3 layers='' diffs='' manifest manifests='' name
  IFS=: read -ra roots <<<"$1"
  shift 3
  rm -rf "$work/oci"
  mkdir -p "$work/oci/blobs/sha256"
  for root in "${roots[@]}"; do
    tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer" .
    diffs+=$(printf ',"sha256:%s"' "$(sha256sum "$work/layer" | cut -d' ' -f1)")
    layers+=$(printf ',{"mediaType":"application/vnd.oci.image.layer.v1.tar",%s}' "$(blob "$work/layer")")
  done
  printf '{"architecture":"amd64","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]}}' \
    "$config" "${diffs#,}" >"$work/config"
  config=$(blob "$work/config")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[%s]}' \
    "$config" "${layers#,}" >"$work/manifest"
  manifest=$(blob "$work/manifest")
  for name in "$@"; do
    manifests+=$(printf ',{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}' \
      "$manifest" "$name" "${name##*:}")
  done
  printf '{"schemaVersion":2,"manifests":[%s]}' "${manifests#,}" >"$work/oci/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
  # Renamed into place: an interrupted build leaves no half archive.
  tar -C "$work/oci" -cf "$archive.part" .
  mv "$archive.part" "$archive"
}
