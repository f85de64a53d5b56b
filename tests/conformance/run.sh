#!/bin/bash
# Upstream's e2e suite, from nothing: builds its programs and images once, then tests/conformance/main.rs runs it on two
# hosts and prints a table.
# usage: tests/conformance/run.sh        as root; variables say what:
#          TARGET=coracle                  or upstream, node (our nodes under upstream's control plane), control-plane
#                                          (upstream's nodes under ours), proxy (upstream's everything, our Service rules)
#          FOCUS=EXPRESSION SKIP=EXPRESSION of test names; without FOCUS all of [Conformance], FOCUS=node: [NodeConformance]
#          TEST='FULL NAME'                this one alone, again
#          AGAIN=failed                    what is not known of this build, and what failed; AGAIN=all: everything anew
#          PROCS=12 MINUTES=N              how many run at once; when to stop (the next run goes on from there)
#          RUNTIME=debian                  Debian's containerd and runc instead of 2.4 and 1.5; writes nothing into the
#                                          repository
#          CORACLE_BIN=FILE CORACLE_COMMIT=COMMIT   a binary that is built already, and of which commit it is
#          CONFORMANCE_CACHE=FOLDER        where everything that is built, and what is known, is kept
#        tests/conformance/run.sh ci      what ci.txt names, at most 20 minutes; writes nothing into the repository
# Runs of different targets may go on at once; they build one after another.
set -euo pipefail
cd "$(dirname "$0")/../.."
# What is misspelt is found now, not after ten minutes of building.
refuse() {
  echo "conformance: $*" >&2
  exit 2
}
case ${TARGET:-coracle} in
coracle | upstream | node | control-plane | proxy) ;;
*) refuse "there is no target '$TARGET'; TARGET is one of coracle, upstream, node, control-plane, proxy" ;;
esac
case ${AGAIN:-} in
'' | failed | all) ;;
*) refuse "AGAIN is failed or all, not '$AGAIN'" ;;
esac
case ${RUNTIME:-} in
'' | debian) ;;
*) refuse "RUNTIME is debian or left out, not '$RUNTIME'" ;;
esac
case ${PROCS:-0}${MINUTES:-0} in
*[!0-9]*) refuse "PROCS and MINUTES are numbers, not '${PROCS:-}' and '${MINUTES:-}'" ;;
esac
for expression in "${FOCUS:-}" "${SKIP:-}"; do
  # 1 is no match, 2 is no expression.
  found=0
  grep -qP -e "$expression" </dev/null || found=$?
  [ $found != 2 ] || refuse "FOCUS and SKIP are regular expressions, not '$expression'"
done
case ${1:-} in
'') ;;
ci) [ -z "${TARGET:-}" ] || refuse "the gate judges coracle; leave TARGET out" ;;
*) refuse "there is no part '$1'; see the top of tests/conformance/run.sh" ;;
esac
# Known before anything is built: whoever goes on editing meanwhile changes no result.
if [ -z "${CORACLE_BIN:-}" ]; then
  CORACLE_COMMIT=$(git rev-parse --short=12 HEAD)
  changes=$(git status --porcelain -- Cargo.lock Cargo.toml rust-toolchain.toml deploy proto src)
  CORACLE_COMMIT+=${changes:+ with changes}
elif [ -z "${CORACLE_COMMIT:-}" ]; then
  refuse "CORACLE_BIN is $CORACLE_BIN; of which commit is it? Say CORACLE_COMMIT too"
fi
if [ "$(id -u)" != 0 ]; then
  echo "The hosts are network namespaces that run containers, which needs root. Run: sudo make conformance" >&2
  exit 1
fi
step() { printf '\n==> %s (%s s)\n' "$*" "$SECONDS" >&2; }

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
cache=$(realpath -m "${CONFORMANCE_CACHE:-$target/conformance}")
tools=$target/tools
mkdir -p "$cache/logs"
# The program takes this lock for as long as it runs, so that nothing that it starts can hold it longer.
lock=$cache/${TARGET:-coracle}${RUNTIME:+-$RUNTIME}.lock
flock -n "$lock" true || refuse "another run of TARGET=${TARGET:-coracle} is under way; it holds $lock"
exec 8>"$cache/build.lock"
flock -n 8 || {
  step "Waiting for another run to have built what it needs"
  flock 8
}

step "Packages"
# What a package starts must not hold the lock on.
./deploy/packages.sh mmdebstrap dpkg-dev pkg-config libseccomp-dev docker-registry skopeo jq bzip2 8>&-
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
} >"$cache/containerd.toml.part"
# At once: the hosts of another run may be reading it.
mv "$cache/containerd.toml.part" "$cache/containerd.toml"
step "coracle"
if [ -z "${CORACLE_BIN:-}" ]; then
  cargo build --locked --release --bin coracle --bin coracle-cni
  CORACLE_BIN=$target/release/coracle
fi
cargo build --locked --package conformance
# Aside, where no other build replaces it under the hosts that run it.
aside=$cache/bin/$(sha256sum "$CORACLE_BIN" | cut -c1-16)
if [ ! -d "$aside" ]; then
  find "$cache/bin" -mindepth 1 -maxdepth 1 -mtime +1 -exec rm -rf {} + 2>/dev/null || true
  mkdir -p "$aside.part"
  cp "$CORACLE_BIN" "$(dirname "$CORACLE_BIN")/coracle-cni" "$aside.part"
  mv "$aside.part" "$aside"
fi
CORACLE_BIN=$aside/coracle
exec 8>&-
export RUNTIME=${RUNTIME:-}
export CORACLE_COMMIT CORACLE_BIN CORACLE_KUBECTL=$tools/kubectl CORACLE_UPSTREAM=$tools CORACLE_IMAGES=$cache/images
export CORACLE_CONTAINERD_TOML=$cache/containerd.toml CORACLE_KEEP_LOGS=$cache/logs CONFORMANCE_CACHE=$cache
step "The suite"
exec "$target/debug/conformance" "$@"
