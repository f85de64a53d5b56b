#!/bin/bash
# Builds programs of upstream's from the Go module proxy, for the tests. What is built already is left alone.
# usage: tests/upstream.sh OUT_DIR PROGRAM...
#        of kubernetes:  kubelet, kube-proxy, kube-apiserver, kubeadm, kubectl, ..., e2e.test and ginkgo,
#                        agnhost and regression-issue-74839 (they go into images)
#        others:         etcd, etcdctl, containerd, ctr, containerd-shim-runc-v2, runc (needs gcc, pkg-config and
#                        libseccomp-dev), sample-apiserver
#        K8S_VERSION, ETCD_VERSION, CONTAINERD_VERSION, RUNC_VERSION and SAMPLE_APISERVER_VERSION choose other versions
set -euo pipefail
version=${K8S_VERSION:-1.36.3} etcd=${ETCD_VERSION:-3.6.8} containerd=${CONTAINERD_VERSION:-2.4.2} runc=${RUNC_VERSION:-1.5.2}
sample=${SAMPLE_APISERVER_VERSION:-0.33.3}
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

# of_kubernetes GO_COMMAND PACKAGE: into $part.
of_kubernetes() {
  local package=k8s.io/component-base/version command
  read -ra command <<<"$1"
  kubernetes
  (cd "$work/kubernetes" && go "${command[@]}" -o "$part" \
    -ldflags "-s -w -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=${version:2:2}" "$2")
}

# alone PACKAGE VERSION [LDFLAGS [GO_FLAG...]]: from a module of its own, since its dependencies are other versions.
alone() {
  local package=$1 of=$2 flags=${3:-}
  shift $(($# < 3 ? $# : 3))
  mkdir "$work/alone"
  (
    cd "$work/alone"
    # What these two say is no news, unless they fail.
    { go mod init alone && go get "$package@v$of"; } >log 2>&1 || { cat log >&2; exit 1; }
    go build "$@" -ldflags "-s -w $flags" -o "$part" "$package"
  )
  rm -rf "$work/alone"
}

# built NAME VERSION: whether it is there in this version, under its own name too.
built() {
  [ -x "$out/$1-$2" ] && ln -sf "$1-$2" "$out/$1"
}

for program in "$@"; do
  case $program in
    etcd | etcdctl) of=$etcd ;;
    containerd | ctr | containerd-shim-runc-v2) of=$containerd ;;
    runc) of=$runc ;;
    sample-apiserver) of=$sample ;;
    *) of=$version ;;
  esac
  built "$program" "$of" && continue
  echo "Building $program $of"
  # Renamed into place: an interrupted build leaves no half program.
  part=$work/program
  case $program in
    etcd) alone go.etcd.io/etcd/server/v3 "$of" ;;
    etcdctl) alone go.etcd.io/etcd/etcdctl/v3 "$of" ;;
    containerd | ctr | containerd-shim-runc-v2)
      module=github.com/containerd/containerd/v2
      alone $module/cmd/"$program" "$of" "-X $module/version.Version=$of" -tags "no_btrfs no_devmapper no_zfs" ;;
    runc) CGO_ENABLED=1 alone github.com/opencontainers/runc "$of" "-X main.version=$of" -tags seccomp ;;
    sample-apiserver) alone k8s.io/sample-apiserver "$of" ;;
    e2e.test) of_kubernetes "test -c" k8s.io/kubernetes/test/e2e ;;
    ginkgo) of_kubernetes build github.com/onsi/ginkgo/v2/ginkgo ;;
    agnhost | regression-issue-74839) of_kubernetes build "k8s.io/kubernetes/test/images/$program" ;;
    *) of_kubernetes build "k8s.io/kubernetes/cmd/$program" ;;
  esac
  mv "$part" "$out/$program-$of"
  built "$program" "$of"
done
