#!/bin/bash
# Formatting, clippy and shellcheck; a warning is an error here.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
# Not among all targets: they are run by commands of their own.
cargo clippy --locked --package coracle --test system --bench system -- -D warnings
mapfile -t scripts < <(git ls-files '*.sh' 'tests/vm/guest/lab-init')
shellcheck "${scripts[@]}"
