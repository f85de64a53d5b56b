#!/bin/bash
# Builds CoreDNS from the Go module proxy, for the benchmark. Nothing to do if it is built already.
# usage: tests/bench/coredns.sh OUT_DIR      COREDNS_VERSION chooses another than 1.14.7
set -euo pipefail
version=${COREDNS_VERSION:-1.14.7}
out=$(realpath -m "${1:?usage: tests/bench/coredns.sh OUT_DIR}")
[ -x "$out/coredns-$version" ] && { ln -sf "coredns-$version" "$out/coredns"; exit 0; }
echo "Building CoreDNS $version (some minutes)"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 GOBIN=$work go install -ldflags "-s -w" "github.com/coredns/coredns@v$version"
mv "$work/coredns" "$out/coredns-$version"
ln -sf "coredns-$version" "$out/coredns"
