#!/bin/bash
# Assembles the images that upstream's e2e suite names, without a registry: programs built from the Go module proxy,
# files of Debian's packages. Nothing is built that is there already.
# usage: tests/conformance/images.sh PROGRAMS_DIR OUT_DIR     as root; PROGRAMS_DIR is what tests/upstream.sh and
#        tests/bench/coredns.sh have filled; OUT_DIR gets an OCI archive for each image
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
deploy=$(realpath "$here/../../deploy")
programs=$(realpath "${1:?usage: tests/conformance/images.sh PROGRAMS_DIR OUT_DIR}")
out=$(realpath -m "${2:?usage: tests/conformance/images.sh PROGRAMS_DIR OUT_DIR}")
version=${K8S_VERSION:-1.36.3}

needed=(agnhost regression-issue-74839 etcd etcdctl sample-apiserver coredns)
for program in "${needed[@]}"; do
  [ -x "$programs/$program" ] || { echo "$programs holds no $program; tests/upstream.sh and tests/bench/coredns.sh build them" >&2; exit 1; }
done

# What the archives are made of besides Debian's packages: another script or other programs make others.
made_of=$({
  cat "$0" "$deploy/pack.sh" "$deploy/pause.c" "$here/fake-registry.sh"
  (cd "$programs" && readlink "${needed[@]}")
} | sha256sum | cut -c1-16)
[ -e "$out/made-of-$made_of" ] && exit 0
echo "Assembling the images (some minutes)"
mkdir -p "$out/parts"
rm -rf "$out"/made-of-* "$out"/*.tar "$out/registry"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source=deploy/pack.sh
. "$deploy/pack.sh"
# What takes long is kept there: roots of Debian's packages, busybox.
cd "$out/parts"
module=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
sources=$module/test/images
e2e=registry.k8s.io/e2e-test-images
path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'

# debian NAME PACKAGES: a root of Debian's packages, without what no test looks at.
debian() {
  [ -d "$1" ] && return
  rm -rf "$1.part"
  mmdebstrap --quiet --variant=minbase --include="$2" bookworm "$1.part"
  rm -rf "$1.part"/{var/lib/apt/lists,var/cache/apt,usr/share/{doc,man,locale},dev}/*
  mv "$1.part" "$1"
}

# layer NAME: an empty folder to put over a root.
layer() {
  rm -rf "${work:?}/$1"
  mkdir -p "$work/$1"
}

debian base bash,curl,ca-certificates,bind9-dnsutils,netcat-openbsd,iproute2,iperf,util-linux,procps,perl-base,iputils-ping,tzdata

layer pause
cc -Os -static -s -o "$work/pause/pause" "$deploy/pause.c"
pack "$work/pause" '{"Entrypoint":["/pause"],"User":"65535:65535"}' "$out/pause.tar" registry.k8s.io/pause:3.10.2 registry.k8s.io/pause:3.10

# From Debian's source, since the suite wants ash's own words in errors and environment variables of any name kept,
# which Debian's build drops.
if [ ! -x busybox ]; then
  rm -rf source
  mkdir -p source/lists/partial source/parts
  if [ -e /etc/apt/sources.list.d/debian.sources ]; then
    sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >source/parts/source.sources
  else
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >source/parts/source.list
  fi
  apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$PWD/source/parts"
    -o "Dir::State::Lists=$PWD/source/lists" -o APT::Sandbox::User=root)
  (
    cd source
    "${apt[@]}" update
    "${apt[@]}" source busybox >/dev/null
    cd busybox-*/
    make -s defconfig >/dev/null
    # tc does not compile against newer kernel headers.
    sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/
      s/^# CONFIG_FEATURE_DI_ENV_HACK is not set/CONFIG_FEATURE_DI_ENV_HACK=y/' .config
    make -s -j"$(nproc)" busybox >build.log 2>&1 || { tail -n 20 build.log >&2; exit 1; }
    cp busybox ../../busybox
  )
  rm -rf source
fi
layer busybox
mkdir -p "$work"/busybox/{bin,etc,tmp,root,home,var,usr/bin,usr/sbin,sbin,dev,proc,sys}
chmod 1777 "$work/busybox/tmp"
cp busybox "$work/busybox/bin/busybox"
for applet in $(./busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "$work/busybox/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$work/busybox/etc/passwd"
printf 'root:x:0:\nnobody:x:65534:\n' >"$work/busybox/etc/group"
pack "$work/busybox" "{\"Cmd\":[\"sh\"],$path}" "$out/busybox.tar" $e2e/busybox:1.37.0-1

# The suite reads agnhost's users and groups, its certificate, and what its own registry serves.
layer agnhost
mkdir -p "$work"/agnhost/{uploads,etc}
cp "$programs/agnhost" "$work/agnhost/agnhost"
ln -s agnhost "$work/agnhost/agnhost-2"
install -m 0644 "$sources"/agnhost/porter/localhost.{crt,key} "$work/agnhost"
cp base/etc/{passwd,group} "$work/agnhost/etc"
echo 'user-defined-in-image:x:1000:1000::/:/bin/sh' >>"$work/agnhost/etc/passwd"
printf 'user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n' >>"$work/agnhost/etc/group"
"$here/fake-registry.sh" "$out/pause.tar" "$work/agnhost/var/registry" pause testing
pack "base:$work/agnhost" "{\"Entrypoint\":[\"/agnhost\"],\"Cmd\":[\"pause\"],$path}" "$out/agnhost.tar" $e2e/agnhost:2.63.0 $e2e/agnhost:2.55
for pet in kitten nautilus; do
  layer pet
  mkdir "$work/pet/etc"
  install -m 0644 "$sources/$pet"/html/* "$work/pet"
  # A spec reads which distribution it is.
  echo 'NAME="stand-in for Alpine Linux, made of Debian packages"' >"$work/pet/etc/os-release"
  pack "base:$work/agnhost:$work/pet" "{\"Entrypoint\":[\"/agnhost\"],\"Cmd\":[\"test-webserver\"],$path}" "$out/$pet.tar" $e2e/$pet:1.8
done

pack base "{\"Cmd\":[\"bash\"],$path}" "$out/base.tar" $e2e/glibc-dns-testing:2.0.0 $e2e/perl:5.26 $e2e/ipc-utils:1.4
pack base "{\"User\":\"1234\",$path}" "$out/nonroot.tar" $e2e/nonroot:1.5
layer nonewprivs
mkdir -p "$work/nonewprivs/usr/local/bin"
CGO_ENABLED=0 go build -o "$work/nnp" "$sources/nonewprivs/nnp.go"
install -m 6755 "$work/nnp" "$work/nonewprivs/usr/local/bin/nnp"
pack "base:$work/nonewprivs" "{\"Cmd\":[\"nnp\"],$path}" "$out/nonewprivs.tar" $e2e/nonewprivs:1.4

debian nginx nginx-light
layer nginx
mkdir -p "$work"/nginx/{usr/share/nginx/html,etc/nginx/{sites-enabled,conf.d},var/log/nginx}
printf '<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n' \
  >"$work/nginx/usr/share/nginx/html/index.html"
printf 'server {\n  listen 80;\n  listen [::]:80;\n  root /usr/share/nginx/html;\n  index index.html;\n}\n' \
  >"$work/nginx/etc/nginx/conf.d/default.conf"
# A whiteout: Debian's own site would want port 80 too.
touch "$work/nginx/etc/nginx/sites-enabled/.wh.default"
ln -s /dev/stdout "$work/nginx/var/log/nginx/access.log"
ln -s /dev/stderr "$work/nginx/var/log/nginx/error.log"
pack "nginx:$work/nginx" "{\"Cmd\":[\"nginx\",\"-g\",\"daemon off;\"],\"StopSignal\":\"SIGQUIT\",$path}" "$out/nginx.tar" \
  $e2e/nginx:1.15-4 $e2e/nginx:1.27-0

# single PROGRAM NAME: an image of one program.
single() {
  layer single
  mkdir -p "$work"/single/{tmp,etc/ssl/certs}
  chmod 1777 "$work/single/tmp"
  cp /etc/ssl/certs/ca-certificates.crt "$work/single/etc/ssl/certs"
  cp "$programs/$1" "$work/single/$1"
  pack "$work/single" "{\"Entrypoint\":[\"/$1\"],$path}" "$out/$1.tar" "$2"
}
single sample-apiserver $e2e/sample-apiserver:1.29.2
single regression-issue-74839 $e2e/regression-issue-74839:1.4
# The name that deploy/coredns.yaml asks for.
single coredns "$(sed -n 's/^ *image: \(.*coredns.*\)/\1/p' "$deploy/coredns.yaml")"

layer etcd
mkdir -p "$work/etcd/usr/local/bin"
cp "$programs"/{etcd,etcdctl} "$work/etcd/usr/local/bin"
pack "base:$work/etcd" "{\"Cmd\":[\"etcd\"],$path}" "$out/etcd.tar" registry.k8s.io/etcd:3.6.8-0

touch "$out/made-of-$made_of"
