#!/bin/bash
# Builds upstream's kubectl from the Go module proxy, for the tests. Nothing to do if it is built already.
# usage: tests/kubectl.sh OUT_DIR      K8S_VERSION chooses another than 1.36.3
set -euo pipefail
version=${K8S_VERSION:-1.36.3}
out=$(realpath -m "${1:?usage: tests/kubectl.sh OUT_DIR}")
[ -x "$out/kubectl-$version" ] && { ln -sf "kubectl-$version" "$out/kubectl"; exit 0; }
command -v go >/dev/null || { echo "go is needed to build kubectl for the tests: https://go.dev/doc/install" >&2; exit 1; }
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
echo "Building kubectl $version (a minute)"
module=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
# k8s.io/kubernetes replaces its own parts by folders of its repository; as a module they are at v0.X.
{
  echo "module kubectl"
  grep -E '^(go|godebug) ' "$module/go.mod"
  echo "require k8s.io/kubernetes v$version"
  awk '/^require \(/{inside=1} inside{print} /^\)/{inside=0}' "$module/go.mod" |
    sed -E 's#^(\tk8s.io/[a-z-]+) v0\.0\.0$#\1 v0.'"${version#1.}"'#'
  echo "replace ("
  sed -n 's#^\t\(k8s.io/[a-z-]*\) => \./staging.*#\t\1 => \1 v0.'"${version#1.}"'#p' "$module/go.mod"
  echo ")"
} >go.mod
cp "$module/go.sum" go.sum
chmod u+w go.sum
package=k8s.io/component-base/version
CGO_ENABLED=0 GOFLAGS=-mod=mod go build -o "$out/kubectl-$version" \
  -ldflags "-s -w -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=${version:2:2}" \
  k8s.io/kubernetes/cmd/kubectl
ln -sf "kubectl-$version" "$out/kubectl"
