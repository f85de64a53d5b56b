#!/bin/bash
# The benchmark, from nothing: packages, a release build, images; then tests/bench/main.rs measures and writes
# tests/bench/results.json and tests/bench/RESULTS.md. Keep the machine quiet meanwhile.
# usage: tests/bench/run.sh [PART...]     as root; a part is one of start, pods, services, network, dns, api (prints, writes nothing)
#        UPSTREAM_BIN=DIR                 holds upstream's kube-apiserver and etcd, to measure the API against
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then
  echo "The benchmark makes network namespaces and runs containers, which needs root. Run: sudo make bench" >&2
  exit 1
fi
step() { printf '\n==> %s (%s s)\n' "$*" "$SECONDS" >&2; }

if [ -n "${UPSTREAM_BIN:-}" ]; then
  UPSTREAM_BIN=$(realpath "$UPSTREAM_BIN")
  export UPSTREAM_BIN
  for program in kube-apiserver etcd; do
    [ -x "$UPSTREAM_BIN/$program" ] || { echo "UPSTREAM_BIN holds no $program: $UPSTREAM_BIN" >&2; exit 1; }
  done
fi
step "Packages"
./deploy/packages.sh
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
step "A release build"
cargo build --locked --release --bin coracle --bin coracle-cni
cargo bench --locked --bench system --no-run
step "Images"
./deploy/images.sh "$target/images"
if command -v go >/dev/null; then
  step "CoreDNS, to measure DNS against"
  ./tests/bench/coredns.sh "$target/tools"
  export COREDNS_BIN=$target/tools/coredns
fi
step "Measuring (about seven minutes)"
export CORACLE_BIN=${CORACLE_BIN:-$target/release/coracle} CORACLE_IMAGES=${CORACLE_IMAGES:-$target/images}
cargo bench --locked --bench system -- "$@"
