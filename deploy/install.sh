#!/bin/bash
# Installs Coracle on this Debian machine as a systemd service. Run again, it brings the machine to the same state: a new
# binary is put in place and the service restarted, while the pods run on; what is right already is left alone.
# deploy/uninstall.sh takes it all away again.
set -euo pipefail
usage="usage: deploy/install.sh ROLE [OPTION...]       as root

  up       a control plane and a node in one process
  server   a control plane alone
  node     a node alone; \`coracle join\` makes it a member of a cluster

  --binary FILE        the program to install (default: target/release/coracle); coracle-cni beside it comes along
  --config FILE        /etc/coracle/config.yaml, if there is none yet (default: one with the defaults in comments)
  --pause-image NAME   the image that holds a pod's namespaces, where the runtime's own default cannot be fetched
  --images DIR         image archives (*.tar) to load into the container runtime
  --no-start           install, but do not start the service
  --skip-packages      the machine has its packages already"

say() { printf '==> %s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

here=$(cd "$(dirname "$0")" && pwd)
role="" binary=$here/../target/release/coracle config="" pause_image="" images="" start=yes packages=yes
while [ $# -gt 0 ]; do
  case $1 in
  up | server | node) role=$1 ;;
  --binary | --config | --pause-image | --images)
    [ $# -ge 2 ] || fail "$1 needs a value"$'\n'"$usage" 2
    case $1 in --binary) binary=$2 ;; --config) config=$2 ;; --pause-image) pause_image=$2 ;; --images) images=$2 ;; esac
    shift ;;
  --no-start) start=no ;;
  --skip-packages) packages=no ;;
  -h | --help) echo "$usage"; exit 0 ;;
  *) fail "$1 is not known"$'\n'"$usage" 2 ;;
  esac
  shift
done
[ -n "$role" ] || fail "say which role: up, server or node"$'\n'"$usage" 2
[ "$(id -u)" = 0 ] || fail "it writes to /usr/local, /etc and the kernel's settings, which needs root. Run: sudo $0 $role"
[ -d /run/systemd/system ] || fail "systemd does not run here. To try Coracle without it: make up"
[ -x "$binary" ] || fail "$binary is not there. Build it (cargo build --release) or name it: --binary FILE"
for file in ${config:+"$config"} ${images:+"$images"}; do
  [ -e "$file" ] || fail "$file is not there"
done

case $role in up) service=coracle.service ;; *) service=coracle-$role.service ;; esac
for other in coracle.service coracle-server.service coracle-node.service; do
  if [ $other != "$service" ] && [ -e /etc/systemd/system/$other ]; then
    fail "$other is installed; one machine has one of them. Run deploy/uninstall.sh first"
  fi
done
runs_pods() { [ "$role" != server ]; }

# put FILE MODE: replaces FILE by what comes on standard input, if that is something else. Says whether it did, in $changed.
put() {
  local new
  mkdir -p "$(dirname "$1")"
  new=$(mktemp "$1.XXXXXX")
  cat >"$new"
  chmod "$2" "$new"
  if cmp -s "$new" "$1"; then
    rm -f "$new"
    changed=no
  else
    # Renamed: nobody ever reads, or starts, half a file.
    mv -f "$new" "$1"
    changed=yes
  fi
}

if [ $packages = yes ]; then
  wanted=(ca-certificates iproute2 procps kmod)
  runs_pods && wanted+=(containerd runc containernetworking-plugins nftables iptables ipset conntrack util-linux)
  missing=()
  for package in "${wanted[@]}"; do
    [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    say "Installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
fi

say "Installing /usr/local/bin/coracle"
put /usr/local/bin/coracle 755 <"$binary"
new_binary=$changed
# The same plugin in a small file, which the container runtime starts for every pod; coracle is it too, but starts slower.
if [ -x "$(dirname "$binary")/coracle-cni" ]; then
  put /usr/local/bin/coracle-cni 755 <"$(dirname "$binary")/coracle-cni"
elif [ -e /usr/local/bin/coracle-cni ]; then
  rm -f /usr/local/bin/coracle-cni
  changed=yes
else
  changed=no
fi
# The agent says to the runtime which of the two it is.
[ $changed = no ] || new_binary=yes

if runs_pods; then
  say "Kernel modules and settings"
  put /etc/modules-load.d/coracle.conf 644 <<'MODULES'
# Written by Coracle's installer; deploy/uninstall.sh removes it.
# Images, pods' interfaces, the node-to-node network, and Service rules.
overlay
br_netfilter
vxlan
nf_conntrack
nf_tables
MODULES
  # Built-in ones and those that this kernel does not have are no matter here: coracle doctor tells what is missing.
  grep -v '^#' /etc/modules-load.d/coracle.conf | xargs -r -n1 modprobe -q || true
  # least KEY VALUE: the line that makes it so much at least. A machine with more memory has more of some by itself; what an
  # earlier run of ours wrote is not the machine's own.
  least() {
    local now
    now=$(sed -n "s/^$1 = //p" /var/lib/coracle/sysctls.before 2>/dev/null)
    [ -n "$now" ] || now=$(sysctl -en "$1" 2>/dev/null)
    if [ "${now:-0}" -lt "$2" ]; then echo "-$1 = $2"; fi
  }
  put /etc/sysctl.d/90-coracle.conf 644 <<SYSCTLS
# Written by Coracle's installer; deploy/uninstall.sh removes it.
# A node routes between its pods, its network and other nodes. Of IPv6 the agent does it where pods have it: it knows which
# links have to go on listening to their routers.
net.ipv4.ip_forward = 1
# Packets between pods on one bridge (third-party CNI plugins) pass the rules of Services too. A minus: without br_netfilter they are not there.
-net.bridge.bridge-nf-call-iptables = 1
-net.bridge.bridge-nf-call-ip6tables = 1
# Upstream's least: below it, a busy node drops connections.
$(least net.netfilter.nf_conntrack_max 131072)
# Each watched file in a pod takes one; the kernel's default of 128 instances is soon used up.
$(least fs.inotify.max_user_instances 8192)
$(least fs.inotify.max_user_watches 524288)
SYSCTLS
  # What was there before, for the uninstaller: once only.
  if [ ! -e /var/lib/coracle/sysctls.before ]; then
    install -d -m 0711 /var/lib/coracle
    sed -n 's/^-\{0,1\}\([a-z][a-zA-Z0-9_.-]*\) = .*/\1/p' /etc/sysctl.d/90-coracle.conf |
      while read -r key; do sysctl -e "$key"; done >/var/lib/coracle/sysctls.before 2>/dev/null
  fi
  sysctl -q -p /etc/sysctl.d/90-coracle.conf || true

  say "containerd"
  # A kernel with the unified hierarchy has one owner of all cgroups, systemd: runtime and kubelet must both ask it.
  systemd_cgroup=false driver=cgroupfs
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then systemd_cgroup=true driver=systemd; fi
  toml=/etc/containerd/config.toml mark="# Written by Coracle's installer"
  shipped=$(dpkg-query -Wf '${Conffiles}\n' containerd 2>/dev/null | awk -v f=$toml '$1 == f {print $2}')
  if [ ! -e $toml ] || grep -qF "$mark" $toml || [ "$(md5sum <$toml | cut -d' ' -f1)" = "$shipped" ]; then
    if [ -e $toml ] && ! grep -qF "$mark" $toml; then
      cp -p $toml $toml.before-coracle
    fi
    if [ -z "$pause_image" ] && grep -qF "$mark" $toml 2>/dev/null; then
      # A second run without the option keeps what the first was told.
      pause_image=$(sed -n 's/^ *sandbox_image = "\(.*\)"/\1/p' $toml)
    fi
    {
      echo "$mark; deploy/uninstall.sh puts back what was here before."
      sed -e "s#@SYSTEMD_CGROUP@#$systemd_cgroup#" "$here/containerd-service.toml" |
        if [ -n "$pause_image" ]; then sed -e "s#^ *\# sandbox_image = .*#  sandbox_image = \"$pause_image\"#"; else cat; fi
    } | put $toml 644
    [ $changed = no ] || systemctl restart containerd.service
  elif ! grep -Eq "SystemdCgroup *= *$systemd_cgroup" $toml; then
    echo "    $toml was written by somebody else and is left alone. It needs SystemdCgroup = $systemd_cgroup;" >&2
    echo "    set it there and run: systemctl restart containerd" >&2
  fi
  systemctl enable --quiet --now containerd.service
  for archive in ${images:+"$images"/*.tar}; do
    ctr --namespace k8s.io images import "$archive" >/dev/null
  done
fi

say "Configuration and units"
changed=no
if [ ! -e /etc/coracle/config.yaml ]; then
  if [ -n "$config" ]; then
    put /etc/coracle/config.yaml 644 <"$config"
  else
    sed -e "s#@CGROUP_DRIVER@#${driver:-cgroupfs}#" "$here/config.yaml" | put /etc/coracle/config.yaml 644
  fi
fi
put "/etc/systemd/system/$service" 644 <"$here/../systemd/$service"
new_unit=$changed
[ $new_unit = no ] || systemctl daemon-reload

state=$(sed -n "s/^stateDir: *[\"']\{0,1\}\([^\"' #]*\).*/\1/p" /etc/coracle/config.yaml)
if [ "$role" = node ] && [ ! -e "${state:-/var/lib/coracle}/node.kubeconfig" ] && ! grep -Eqs '^ +kubeconfig:' /etc/coracle/config.yaml; then
  # `coracle join` enables and starts it; until then there is nothing that it could do.
  say "Installed. This machine is in no cluster yet: run \`coracle token create\` on the server, and the line that it prints here."
  exit 0
fi
systemctl enable --quiet "$service"
if [ $start = no ]; then
  say "Installed, not started. Start it with: systemctl start $service"
  exit 0
fi
if systemctl is-active --quiet "$service" && [ "$new_binary$new_unit" = nono ]; then
  say "$service runs already, and nothing has changed"
  exit 0
fi
say "Starting $service"
# Pods run on meanwhile: the unit's KillMode is process.
systemctl restart "$service" ||
  { journalctl --no-pager -n 20 -u "$service" >&2; fail "$service did not start; its last words are above"; }
say "$service runs. Its log: journalctl -u $service"
[ "$role" = node ] || say "Next: coracle status; kubectl --kubeconfig /var/lib/coracle/admin.kubeconfig get nodes"
