#!/bin/bash
# Mixtures with upstream's own programs: its node on our control plane, our nodes on its control plane.
# usage: tests/upstream-test.sh [FILTER...]     as root; builds what it needs (ten minutes the first time)
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "The tests make network namespaces and run containers, which needs root. Run: sudo make upstream-test" >&2
  exit 1
fi
./deploy/packages.sh
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
./tests/upstream.sh "$target/tools" kubectl kubelet kube-proxy kubeadm kube-apiserver kube-controller-manager kube-scheduler etcd
./deploy/images.sh "$target/images"
# What deploy/coredns.yaml names, for these tests alone.
images=$target/upstream-images
mkdir -p "$images"
ln -sf "$target"/images/*.tar "$images"
./tests/bench/coredns.sh "$target/tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source=deploy/pack.sh
. deploy/pack.sh
mkdir "$work/coredns"
cp "$target/tools/coredns" "$work/coredns"
name=$(sed -n 's/^ *image: \(.*coredns.*\)/\1/p' deploy/coredns.yaml)
pack "$work/coredns" '{"Entrypoint":["/coredns"]}' "$images/coredns.tar" "$name"
cargo build --locked --release --bin coracle --bin coracle-cni
export CORACLE_BIN=$target/release/coracle CORACLE_KUBECTL=$target/tools/kubectl CORACLE_IMAGES=$images
export CORACLE_UPSTREAM=$target/tools
cargo test --locked --test system -- --ignored --test-threads=1 "${@:-upstream::}"
