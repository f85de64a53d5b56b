#!/bin/bash
# One machine from nothing to a served page: packages, build, runtime, `coracle up`, demo. Run again, it changes nothing.
# usage: deploy/up.sh        CORACLE_STATE_DIR and CORACLE_RUN_DIR move everything elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."
state=${CORACLE_STATE_DIR:-/var/lib/coracle} run=${CORACLE_RUN_DIR:-/run/coracle}
# shellcheck source=deploy/places.sh
. deploy/places.sh
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
coracle=$target/release/coracle
say() { printf '==> %s\n' "$*"; }

if [ "$(id -u)" != 0 ]; then
  echo "make up sets up containers and packet rules, which needs root. Run: sudo make up" >&2
  exit 1
fi
./deploy/packages.sh
command -v cargo >/dev/null || {
  echo "cargo is not in PATH: Rust builds Coracle (https://rustup.rs). Where it is in your own home, run: sudo env \"PATH=\$PATH\" make up" >&2
  exit 1
}
say "Building coracle (some minutes the first time)"
cargo build --release --locked --bin coracle --bin coracle-cni

started=no
if coracle_runs; then
  say "coracle already runs (pid $(cat "$run/coracle.pid")); nothing to start"
  # Its runtime may have died.
  ./deploy/runtime.sh start "$state" "$run"
else
  say "Building the images and starting containerd"
  ./deploy/images.sh "$target/images"
  ./deploy/runtime.sh start "$state" "$run" "$target/images"
  sed -e "s#@STATE@#$state#g" -e "s#@RUN@#$run#g" deploy/coracle.yaml >"$state/config.yaml"
  say "Starting coracle up (log: $state/coracle.log)"
  "$coracle" doctor --config "$state/config.yaml" --quiet
  setsid "$coracle" up --config "$state/config.yaml" >>"$state/coracle.log" 2>&1 </dev/null &
  echo $! >"$run/coracle.pid"
  started=yes
fi
pid=$(cat "$run/coracle.pid")

say "Waiting for the node"
if ! "$coracle" status --config "$state/config.yaml" --wait 60s --while-pid "$pid"; then
  echo "coracle did not become Ready; its log, $state/coracle.log, ends with:" >&2
  tail -n 15 "$state/coracle.log" >&2
  exit 1
fi
say "Applying deploy/demo.yaml"
# Not by tee to /dev/stderr: where that is a file, everything before would be gone.
urls=$("$coracle" apply --config "$state/config.yaml" -f deploy/demo.yaml --wait 90s | while IFS= read -r line; do
  echo "$line" >&2
  grep -o 'http://[^ ]*' <<<"$line" || true
done)
for url in $urls; do
  page=$(curl --silent --show-error --fail --max-time 5 --retry 10 --retry-delay 1 --retry-all-errors "$url")
  say "$url answers: $(grep -o '<h1>.*</h1>' <<<"$page" | sed 's/<[^>]*>//g')"
done

cat <<TEXT

Coracle is $([ $started = yes ] && echo up || echo "up already, nothing was changed"). What to type next:
  export KUBECONFIG=$state/admin.kubeconfig
  kubectl get pods -A -o wide
  $coracle status --config $state/config.yaml
  curl ${urls##*$'\n'}
  make down
TEXT
