#!/bin/bash
# Upstream's e2e suite, from nothing: builds its programs and images once, then tests/conformance/main.rs runs it on two
# hosts and prints a table.
# usage: tests/conformance/run.sh        as root; variables say what:
#          TARGET=coracle                  or upstream, node (our nodes under upstream's control plane), control-plane
#                                          (upstream's nodes under ours), proxy (upstream's everything, our Service rules)
#          FOCUS=EXPRESSION SKIP=EXPRESSION of test names; without FOCUS all of [Conformance], FOCUS=node: [NodeConformance]
#          TEST='FULL NAME'                this one alone, again
#          AGAIN=failed                    also what failed at this commit; AGAIN=all: everything anew
#          PROCS=12 MINUTES=N              how many run at once; when to stop (the next run goes on from there)
#          RUNTIME=debian                  Debian's containerd and runc instead of 2.4 and 1.5; writes nothing into the
#                                          repository
#          CORACLE_BIN=FILE CORACLE_COMMIT=COMMIT   a binary that is built already, and of which commit it is
#          CONFORMANCE_CACHE=FOLDER        where everything that is built, and what is known, is kept
#        tests/conformance/run.sh ci      what ci.txt names, at most 20 minutes; writes nothing into the repository
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then
  echo "The hosts are network namespaces that run containers, which needs root. Run: sudo make conformance" >&2
  exit 1
fi
step() { printf '\n==> %s (%s s)\n' "$*" "$SECONDS" >&2; }

step "Packages"
./deploy/packages.sh mmdebstrap dpkg-dev pkg-config libseccomp-dev docker-registry skopeo jq bzip2
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
cache=$(realpath -m "${CONFORMANCE_CACHE:-$target/conformance}")
tools=$target/tools
step "Upstream's programs (ten minutes the first time)"
# The suite, and what goes into images; then the parts that are upstream's.
programs=(kubectl e2e.test ginkgo agnhost regression-issue-74839 etcd etcdctl sample-apiserver)
case ${TARGET:-coracle} in
upstream | node | proxy) programs+=(kubeadm kube-apiserver kube-controller-manager kube-scheduler) ;;&
upstream | control-plane | proxy) programs+=(kubelet kube-proxy) ;;
esac
./tests/upstream.sh "$tools" "${programs[@]}"
./tests/bench/coredns.sh "$tools"
if [ "${RUNTIME:-}" != debian ]; then
  ./tests/upstream.sh "$cache/runtime" containerd ctr containerd-shim-runc-v2 runc
  export PATH=$cache/runtime:$PATH
fi
step "Images"
./tests/conformance/images.sh "$tools" "$cache/images"
# The suite's pause image, the local registry, and the handler that its RuntimeClass specs name.
{
  sed 's#coracle.dev/pause:1#registry.k8s.io/pause:3.10.2#' deploy/containerd.toml
  cat <<'T'

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "@RUN@/certs.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test-handler]
  runtime_type = "io.containerd.runc.v2"
T
} >"$cache/containerd.toml"
step "coracle"
if [ -z "${CORACLE_BIN:-}" ]; then
  cargo build --locked --release --bin coracle --bin coracle-cni
  CORACLE_BIN=$target/release/coracle
fi
cargo build --locked --package conformance
mkdir -p "$cache/logs"
export RUNTIME=${RUNTIME:-}
export CORACLE_BIN CORACLE_KUBECTL=$tools/kubectl CORACLE_UPSTREAM=$tools CORACLE_IMAGES=$cache/images
export CORACLE_CONTAINERD_TOML=$cache/containerd.toml CORACLE_KEEP_LOGS=$cache/logs CONFORMANCE_CACHE=$cache
step "The suite"
exec "$target/debug/conformance" "$@"
