#!/bin/bash
# Builds programs of upstream's from the Go module proxy, for the tests. What is built already is left alone.
# usage: tests/upstream.sh OUT_DIR PROGRAM...     kubelet, kube-proxy, kube-apiserver, kubeadm, kubectl, ... or etcd
#        K8S_VERSION and ETCD_VERSION choose others than 1.36.3 and 3.6.8
set -euo pipefail
version=${K8S_VERSION:-1.36.3} etcd_version=${ETCD_VERSION:-3.6.8}
out=$(realpath -m "${1:?usage: tests/upstream.sh OUT_DIR PROGRAM...}")
shift
command -v go >/dev/null || { echo "go is needed to build upstream's programs for the tests: https://go.dev/doc/install" >&2; exit 1; }
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -mod=mod"

# A module of our own that needs k8s.io/kubernetes. That one replaces its own parts by folders of its repository; as
# modules they are at v0.X.
kubernetes() {
  [ -e "$work/kubernetes/go.mod" ] && return
  mkdir "$work/kubernetes"
  local module
  module=$(cd "$work" && go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
  {
    echo "module upstream"
    grep -E '^(go|godebug) ' "$module/go.mod"
    echo "require k8s.io/kubernetes v$version"
    awk '/^require \(/{inside=1} inside{print} /^\)/{inside=0}' "$module/go.mod" |
      sed -E 's#^(\tk8s.io/[a-z-]+) v0\.0\.0$#\1 v0.'"${version#1.}"'#'
    echo "replace ("
    sed -n 's#^\t\(k8s.io/[a-z-]*\) => \./staging.*#\t\1 => \1 v0.'"${version#1.}"'#p' "$module/go.mod"
    echo ")"
  } >"$work/kubernetes/go.mod"
  cp "$module/go.sum" "$work/kubernetes/go.sum"
  chmod u+w "$work/kubernetes/go.sum"
}

# built NAME VERSION: whether it is there in this version, under its own name too.
built() {
  [ -x "$out/$1-$2" ] && ln -sf "$1-$2" "$out/$1"
}

for program in "$@"; do
  if [ "$program" = etcd ]; then
    built etcd "$etcd_version" && continue
    echo "Building etcd $etcd_version"
    mkdir "$work/etcd"
    (cd "$work/etcd" && go mod init etcd 2>/dev/null && go get "go.etcd.io/etcd/server/v3@v$etcd_version" 2>/dev/null &&
      go build -ldflags "-s -w" -o "$out/etcd-$etcd_version" go.etcd.io/etcd/server/v3)
    built etcd "$etcd_version"
    continue
  fi
  built "$program" "$version" && continue
  echo "Building $program $version"
  kubernetes
  package=k8s.io/component-base/version
  (cd "$work/kubernetes" && go build -o "$out/$program-$version" \
    -ldflags "-s -w -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=${version:2:2}" \
    "k8s.io/kubernetes/cmd/$program")
  built "$program" "$version"
done
