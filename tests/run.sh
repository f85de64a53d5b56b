#!/bin/bash
# All tests, from nothing: lints, unit tests, tests on the real kernel and the real containerd, and whole clusters.
# usage: tests/run.sh [FILTER...]     as root; a filter runs only the system tests of that name
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "The tests make network namespaces and run containers, which needs root. Run: sudo make test" >&2
  exit 1
fi
step() { printf '\n==> %s (%s s)\n' "$*" "$SECONDS"; }

step "Packages"
# For the lints: shellcheck; for the check of the units: systemd; for that of the Vagrantfile: vagrant; a bus for those who speak
# over one: dbus-daemon.
./deploy/packages.sh shellcheck systemd vagrant dbus-daemon
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
if [ $# -eq 0 ]; then
  step "Formatting and lints"
  ./tests/lint.sh
  step "Unit, golden, simulation, kernel and runtime tests"
  cargo test --locked --workspace --exclude coracle
  cargo test --locked --test tidy --test installation --test bench_report --bin coracle
fi
step "kubectl, images and a release build for the system tests"
./tests/upstream.sh "$target/tools" kubectl
./deploy/images.sh "$target/images"
cargo build --locked --release --bin coracle --bin coracle-cni
step "System tests"
export CORACLE_BIN=$target/release/coracle CORACLE_KUBECTL=$target/tools/kubectl CORACLE_IMAGES=$target/images
cargo test --locked --test system -- --test-threads=1 "$@"
step "All tests passed"
