#!/bin/bash
# A cluster of virtual machines: one server and two nodes with real systemd and cgroup v2, installed by deploy/install.sh and
# joined by `coracle join`, as the Vagrantfile does; then what happens to clusters happens to it. One line for each scenario.
# usage: tests/vm/run.sh [SCENARIO...]     as root; boot, install and join always come first; without names, all of them
#
# VM_ACCEL=kvm uses KVM, VM_CPUS and VM_MEMORY (MiB) size a machine. CORACLE_BIN, CORACLE_KUBECTL and CORACLE_IMAGES name what is
# built already. KEEP=1 leaves the machines running: REUSE=1 goes on with them, and tests/vm/run.sh down ends them.
# Scenarios are called by their names; numbers of machines have no blanks.
# shellcheck disable=SC2317,SC2086
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "Virtual machines on a bridge need root. Run: sudo make vm-test" >&2; exit 1; }
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export VM_DIR=$target/vm
mkdir -p "$VM_DIR"
# shellcheck source=tests/vm/lab.sh
. tests/vm/lab.sh
if [ "${1:-}" = down ]; then
  lab_down
  exit 0
fi
exec 9>"$VM_DIR/lock"
flock -n 9 || { echo "another tests/vm/run.sh is running" >&2; exit 1; }

SERVER=1 NODES="2 3" machines=""
namespace_of_runtime=k8s.io

# --- the tools of scenarios

k() { nsenter --net=/run/netns/$netns timeout 60 "$kubectl" --kubeconfig "$VM_DIR/kubeconfig" "$@" 9>&-; }

# eventually SECONDS WHAT COMMAND...: until the command succeeds. Polls from the host: a process in a machine is dear.
eventually() {
  local seconds=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@" >"$VM_DIR/last" 2>&1; do
    if [ $SECONDS -ge "$end" ]; then
      echo "not within $seconds s: $what; last seen:" >&2
      tail -n 20 "$VM_DIR/last" >&2
      return 1
    fi
    sleep 0.5
  done
}

# is WORDS COMMAND...: whether the command succeeds and prints exactly these.
is() {
  local printed
  printed=$("${@:2}" 2>/dev/null) && [ "$printed" = "$1" ]
}
condition() { k get node "node$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'; }
ready_replicas() { k get deployment web -o 'jsonpath={.status.readyReplicas}'; }
# Without those that ended with their machine, which stay in the API.
web_pods() { k get pods -l app=web --field-selector status.phase!=Failed -o "jsonpath={range .items[*]}$1{\"\\n\"}{end}"; }
containers() { web_pods '{.metadata.name} {.status.containerStatuses[0].containerID}' | sort; }
nodes_of_web() { web_pods '{.spec.nodeName}' | sort | tr '\n' ' '; }
service_ip() { k get service web -o 'jsonpath={.spec.clusterIP}'; }
fetch() { on "$1" curl -sf -m 10 -o /dev/null "http://$2/"; }
web_is_served() {
  local from
  for from in "${@:-2}"; do
    eventually 60 "machine $from reaches the Service by its address" fetch "$from" "$(service_ip)"
  done
}
web_is_up() { eventually 240 "both replicas are ready" is 2 ready_replicas; }
main_pid() { on "$1" systemctl show -p MainPID --value coracle-node.service; }

# What deploy/install.sh needs, as a person would have it from a clone with a built binary.
provision() {
  local i=$1
  on "$i" mkdir -p /root/coracle/target/release
  give "$i" "$PWD"/deploy/{install.sh,uninstall.sh,config.yaml,containerd-service.toml} /root/coracle/deploy
  give "$i" "$PWD"/systemd/*.service /root/coracle/systemd
  give "$i" "$binary" ${plugin:+"$plugin"} /root/coracle/target/release
  give "$i" "$images"/*.tar /root/coracle/images
}
installs() {
  on "$1" /root/coracle/deploy/install.sh "$2" --skip-packages --binary "/root/coracle/target/release/$(basename "$binary")" \
    --pause-image coracle.dev/pause:1 --images /root/coracle/images
}

# together COMMAND...: the command once for each machine at the same time, the machine's number last.
together() {
  local i failed=0
  declare -A pids
  for i in $machines; do
    "$@" "$i" &
    pids[$i]=$!
  done
  for i in $machines; do wait "${pids[$i]}" || failed=1; done
  return $failed
}

# --- the scenarios

boot() {
  local i
  # shellcheck disable=SC2086 # one word for each machine
  lab_network $SERVER $NODES
  for i in $SERVER $NODES; do lab_boot "$i"; done
  for i in $SERVER $NODES; do lab_wait "$i"; done
}

install_node() { provision "$1" && installs "$1" node; }
install() {
  provision $SERVER
  installs $SERVER server
  machines=$NODES together install_node
  on $SERVER cat /var/lib/coracle/admin.kubeconfig | sed -E "s#https://[^:]+:#https://$(lab_address $SERVER):#" >"$VM_DIR/kubeconfig"
  k get namespaces
  # Again: nothing changes, and it says so.
  installs $SERVER server >"$VM_DIR/last"
  grep 'nothing has changed' "$VM_DIR/last"
}

join_node() { on "$1" "$join_line"; }
join() {
  local i
  join_line=$(on $SERVER coracle token create --ttl 1h)
  machines=$NODES together join_node
  for i in $NODES; do eventually 180 "node$i is Ready" is True condition "$i"; done
  on $SERVER coracle status --wait 120s
}

web() {
  k apply -f tests/vm/web.yaml
  web_is_up
  is "node2 node3 " nodes_of_web || { echo "the replicas are on: $(nodes_of_web)" >&2; return 1; }
  local from pod
  for from in $NODES; do
    for pod in $(web_pods '{.status.podIP}'); do eventually 30 "machine $from reaches $pod" fetch "$from" "$pod:8080"; done
    web_is_served "$from"
    eventually 30 "the node port answers" fetch "$from" "$(lab_address 2):30081"
    eventually 30 "the node port answers" fetch "$from" "$(lab_address 3):30081"
  done
  # systemd knows the pods' slices, and their limits are in the kernel.
  # shellcheck disable=SC2016 # the machine expands it
  on 2 'set -e; slice=$(basename "$(ls -d /sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/*-pod*.slice | head -1)")
    systemctl show -p LoadState,MemoryMax "$slice" | sort | tr "\n" " "
    cat "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/$slice/memory.max"' | tee "$VM_DIR/last"
  grep -q '^LoadState=loaded MemoryMax=67108864 67108864$' "$VM_DIR/last"
}

in_pod() { k exec "$1" -- sh -c "$2"; }
page_at() { in_pod "$1" "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 10 $2" | grep -q 'Hello from a pod'; }

# From a pod on each node, through its resolv.conf, the Service kube-system/kube-dns and the rules of Services.
dns() {
  local pod name
  spread
  k apply -f - <<'PEERS'
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: web}}
PEERS
  finds() { in_pod "$1" "nslookup $2" | grep -c '^Address' | grep -q "^$3\$"; }
  is_denied() { in_pod "$1" "nslookup $2 2>&1; true" | grep -q NXDOMAIN; }
  for pod in $(web_pods '{.metadata.name}'); do
    for name in web web.default web.default.svc.cluster.local; do
      eventually 60 "$pod fetches $name" page_at "$pod" "$name 80"
    done
    # The server's own, and both pods by one name (nslookup shows the DNS server's address first).
    eventually 60 "$pod finds kubernetes.default" finds "$pod" kubernetes.default.svc.cluster.local 2
    eventually 60 "$pod finds both peers" finds "$pod" peers.default.svc.cluster.local 3
    eventually 60 "$pod is told that there is no such name" is_denied "$pod" nobody.default.svc.cluster.local
  done
  k delete service peers
}

is_another() { local now; now=$(main_pid 2); [ "$now" != 0 ] && [ "$now" != "$1" ]; }
agent_killed() {
  local before pid
  before=$(containers)
  pid=$(main_pid 2)
  on 2 kill -KILL "$pid"
  # The pods do not notice.
  web_is_served 2 3
  eventually 60 "systemd starts the agent again" is_another "$pid"
  eventually 120 "the agent is there again" is active on 2 systemctl is-active coracle-node.service
  eventually 120 "node2 is Ready" is True condition 2
  web_is_served 2 3
  [ "$(containers)" = "$before" ]
}
# An agent that is there and does nothing: systemd's watchdog ends it.
agent_hung() {
  local before pid
  before=$(containers)
  pid=$(main_pid 2)
  on 2 kill -STOP "$pid"
  web_is_served 2 3
  eventually 150 "systemd starts another agent" is_another "$pid"
  eventually 120 "node2 is Ready" is True condition 2
  web_is_served 2 3
  [ "$(containers)" = "$before" ]
}

upgrade() {
  local before pid i
  before=$(containers)
  pid=$(main_pid 2)
  # Another binary that does the same: what follows an ELF file is ignored.
  on 2 "printf x >>/root/coracle/target/release/$(basename "$binary")"
  installs 2 node
  [ "$(main_pid 2)" != "$pid" ]
  eventually 120 "node2 is Ready" is True condition 2
  # And the control plane, while pods serve on.
  on $SERVER "printf x >>/root/coracle/target/release/$(basename "$binary")"
  installs $SERVER server
  web_is_served 2 3
  answers() { k get --raw /readyz; }
  eventually 60 "the API answers" is ok answers
  for i in $NODES; do eventually 120 "node$i is Ready" is True condition "$i"; done
  web_is_served 2 3
  [ "$(containers)" = "$before" ]
}

# Each node has one, also after a scenario that moved them: the constraint of the manifest only leans that way.
spread() {
  local tries=0
  web_is_up
  while [ "$(nodes_of_web)" != "node2 node3 " ]; do
    [ $tries -lt 3 ] || { echo "the replicas stay on: $(nodes_of_web)" >&2; return 1; }
    k delete pod "$(web_pods '{.metadata.name}' | head -n 1)" --timeout 50s
    web_is_up
    tries=$((tries + 1))
  done
}

# The pods of a machine that lost its power run again: the same pods, in new containers.
came_back() {
  local i=$1 names=$2
  eventually 180 "node$i is Ready" is True condition "$i"
  runs_anew() { [ "$(web_pods '{.metadata.name}' | sort)" = "$names" ] && is 2 ready_replicas && [ "$(containers)" != "$3" ]; }
  eventually 240 "the same pods run in new containers" runs_anew "$@"
  web_is_served 2 3
}
forget_failed() { k delete pods --field-selector status.phase=Failed --timeout 50s; }
pod_on() { k get pods -l "app=$1" --field-selector "spec.nodeName=node$2" -o 'jsonpath={.items[0].metadata.name}'; }
is_gone() { ! lab_alive "$1"; }
# What became of a pod that its machine took down with it: phase, reason, exit code and last words.
end_of() { k get pod "$1" -o 'jsonpath={.status.phase} {.status.reason} {.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].state.terminated.message}'; }

# Nodes whose link does not carry what has a pod's address: Services, names and the doctor over the tunnel, and back again.
tunnel() {
  local i pod
  spread
  for i in $NODES; do
    on "$i" 'echo "network: {directRoutes: false}" >>/etc/coracle/config.yaml; systemctl restart coracle-node.service'
  done
  tunnels() { on "$1" 'ip route' | grep -q 'via 10.244.* dev coracle-vxlan'; }
  for i in $NODES; do eventually 120 "machine $i sends through the tunnel" tunnels "$i"; done
  web_is_served 2 3
  for i in $NODES; do
    for pod in $(web_pods '{.status.podIP}'); do eventually 60 "machine $i reaches $pod" fetch "$i" "$pod:8080"; done
  done
  for pod in $(web_pods '{.metadata.name}'); do eventually 60 "$pod fetches web" page_at "$pod" 'web 80'; done
  on 2 coracle doctor
  for i in $NODES; do on "$i" "sed -i '/directRoutes/d' /etc/coracle/config.yaml; systemctl restart coracle-node.service"; done
  no_tunnel() { ! on "$1" 'ip -o link' | grep -q coracle-vxlan; }
  for i in $NODES; do eventually 120 "machine $i needs no tunnel" no_tunnel "$i"; done
  web_is_served 2 3
}

# A machine that is told to reboot ends its pods first: others take their place.
reboot() {
  local pod
  spread
  pod=$(pod_on web 2)
  lab_reboot 2
  eventually 180 "node2 is Ready" is True condition 2
  is "Failed Terminated 0 " end_of "$pod" || { echo "the pod of node2: $(end_of "$pod")" >&2; return 1; }
  web_is_up
  web_is_served 2 3
  is "Failed Terminated 0 " end_of "$pod"
  forget_failed
}

# A machine that is switched off: what its pod says at last is in the API before it is off, by its own word, and the pod's
# successor runs once the machine is there again.
graceful_shutdown() {
  local pod start
  k apply -f tests/vm/last-words.yaml
  words_ready() { k get deployment last-words -o 'jsonpath={.status.readyReplicas}'; }
  eventually 240 "the pod on node2 is ready" is 1 words_ready
  pod=$(pod_on last-words 2)
  # logind waits for pods, for as long as they and their statuses may take.
  held() { on 2 'busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager InhibitDelayMaxUSec
    systemd-inhibit --list --no-pager --no-legend' >"$VM_DIR/held" && grep -q '^t 35000000$' "$VM_DIR/held" && grep -q 'coracle.*shutdown.*delay' "$VM_DIR/held"; }
  eventually 60 "the agent holds a lock of logind" held
  start=$SECONDS
  on 2 systemctl poweroff 2>/dev/null || true
  # False is the node's own word; of one that is silent it is Unknown.
  by_own_word() { k get node node2 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].reason} {.status.conditions[?(@.type=="Ready")].message}'; }
  eventually 30 "node2 says that it goes down" is "False KubeletNotReady node is shutting down" by_own_word
  echo "not ready after $((SECONDS - start)) s"
  not_an_endpoint() { k get endpointslices -l kubernetes.io/service-name=last-words -o 'jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses}'; }
  eventually 30 "nothing is sent to its pod" is "" not_an_endpoint
  eventually 60 "its pod has ended, and the API knows how" is "Failed Terminated 7 so long" end_of "$pod"
  echo "pod ended after $((SECONDS - start)) s"
  k get pod "$pod" -o 'jsonpath={.status.message}|{.status.conditions[?(@.type=="DisruptionTarget")].reason}' | tee "$VM_DIR/last"
  grep -qx 'Pod was terminated in response to imminent node shutdown.|TerminationByKubelet' "$VM_DIR/last"
  eventually 120 "machine 2 is off" is_gone 2
  echo "off after $((SECONDS - start)) s"
  forget 2
  lab_boot 2 keep
  lab_wait 2
  eventually 180 "node2 is Ready again" is True condition 2
  eventually 240 "another pod runs in its place" is 1 words_ready
  eventually 60 "its Service answers" fetch 3 "$(k get service last-words -o 'jsonpath={.spec.clusterIP}')"
  # What has ended stays so, and nothing of it was started again.
  is "Failed Terminated 7 so long" end_of "$pod"
  [ "$(k get pod "$pod" -o 'jsonpath={.status.containerStatuses[0].restartCount}')" = 0 ]
  on 2 'journalctl --no-pager -o cat -b -1 -u coracle-node' >"$VM_DIR/log2"
  grep 'the machine goes down' "$VM_DIR/log2"
  grep 'their statuses are written' "$VM_DIR/log2"
  k delete -f tests/vm/last-words.yaml --timeout 50s
  forget_failed
  web_is_up
}
power_cut() {
  local names before
  spread
  names=$(web_pods '{.metadata.name}' | sort) before=$(containers)
  lab_power_off 3
  lab_boot 3 keep
  lab_wait 3
  came_back 3 "$names" "$before"
}

partition() {
  local start after
  # Off an unreachable node after 20 s instead of 300.
  k patch deployment web -p '{"spec":{"template":{"spec":{"tolerations":[
    {"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":20}]}}}}'
  k rollout status deployment web --timeout 50s || k rollout status deployment web --timeout 50s
  spread
  start=$SECONDS
  lab_unplug 3
  # The status is as old as the last one that was heard, so the 40 s may have begun 10 s ago.
  eventually 90 "node3 is NotReady" is Unknown condition 3
  after=$((SECONDS - start))
  echo "NotReady after $after s"
  # 40 s after the last heartbeat, as upstream; what the host and the machines are slower at is allowed for.
  [ $after -ge 25 ] && [ $after -le 60 ]
  on_node2() { [ "$(k get pods -l app=web --field-selector spec.nodeName=node2 -o 'jsonpath={.items[*].status.containerStatuses[0].ready}')" = "true true" ]; }
  eventually 180 "both replicas are on node2" on_node2
  lab_plug 3
  eventually 120 "node3 is Ready again" is True condition 3
  only_those() { [ "$(web_pods '{.spec.nodeName}' | tr '\n' ' ')" = "node2 node2 " ]; }
  eventually 120 "the pod that was evicted is gone" only_those
  nothing_runs() { is "" on 3 "ctr -n $namespace_of_runtime containers ls -q"; }
  eventually 120 "and so are its containers" nothing_runs
  web_is_served 3
  # Both nodes have one again.
  k rollout restart deployment web
  k rollout status deployment web --timeout 50s || k rollout status deployment web --timeout 50s
}

uninstall() {
  eventually 240 "node3 is drained" k drain node3 --ignore-daemonsets --force --timeout 50s
  k delete node node3
  on 3 /root/coracle/deploy/uninstall.sh
  nothing_is_left
}
# A control plane and a node in one process, on a machine that was a node before.
one_machine() {
  installs 3 up
  on 3 coracle status --wait 240s
  give 3 "$PWD/tests/vm/web.yaml" /root/coracle
  on 3 coracle apply -f /root/coracle/web.yaml --wait 240s
  eventually 60 "the node port answers" fetch 2 "$(lab_address 3):30081"
  on 3 /root/coracle/deploy/uninstall.sh
  nothing_is_left
}
nothing_is_left() {
  on 3 'ls -d /usr/local/bin/coracle* /etc/coracle /var/lib/coracle /run/coracle /var/lib/kubelet /etc/systemd/system/coracle* \
    /etc/cni/net.d/*coracle* /opt/cni/bin/coracle-cni /opt/cni/bin/loopback /var/log/pods/* \
    /etc/sysctl.d/90-coracle.conf /etc/modules-load.d/coracle.conf /run/systemd/logind.conf.d/*coracle* /sys/fs/cgroup/kubepods* 2>/dev/null
    nft list ruleset; ip -o link | grep -v " lo:\| eth0:"; ip rule | grep -v "lookup \(local\|main\|default\)"; ctr -n k8s.io containers ls -q; true' >"$VM_DIR/left"
  [ ! -s "$VM_DIR/left" ] || { echo "the uninstaller left:" >&2; cat "$VM_DIR/left" >&2; return 1; }
}

# The proxy's own tests of IPVS, which need a kernel that has it; in network namespaces, so that the machine's Services do not notice.
ipvs_traffic() {
  local tests
  tests=$(cargo test --locked -p proxy --test rules --no-run --message-format json | grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d'"' -f4)
  strip -o "$VM_DIR/rules" "$tests"
  give 2 "$VM_DIR/rules" /root
  on 2 /root/rules --test-threads=1 --include-ignored ipvs
}

# A node's Services in each mode, one after the other: served by its own rules alone, from the node itself, by its node port and
# from the other node, with and without endpoints on it.
proxy_mode() {
  local mode=$1
  # shellcheck disable=SC2016 # the machine expands it
  on 2 "set -e; sed '/^proxy:/d' /etc/coracle/config.yaml >/etc/coracle/config.new; echo 'proxy: {mode: $mode}' >>/etc/coracle/config.new
    mv /etc/coracle/config.new /etc/coracle/config.yaml; systemctl restart coracle-node.service"
  eventually 120 "node2 is Ready in mode $mode" is True condition 2
  # What is left of the mode before goes once this one serves.
  eventually 120 "only the rules of mode $mode are there" is "$mode" modes_on_node2
  web_is_served 2 3
  eventually 60 "the node port answers in mode $mode" fetch 3 "$(lab_address 2):30081"
  k patch service web -p '{"spec":{"externalTrafficPolicy":"Local","internalTrafficPolicy":"Local","sessionAffinity":"ClientIP"}}'
  eventually 60 "the node port answers with local policies" fetch 3 "$(lab_address 2):30081"
  web_is_served 2
  k patch service web -p '{"spec":{"selector":{"app":"nobody"}}}'
  is_refused() { is 7 on 3 "curl -s -m 10 -o /dev/null http://$(lab_address 2):30081/; echo \$?"; }
  eventually 60 "without endpoints it is refused" is_refused
  k patch service web -p '{"spec":{"selector":{"app":"web"},"externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster","sessionAffinity":"None"}}'
  web_is_served 2
}
# The table of nf_tables stands beside IPVS too, so that is asked first.
modes_on_node2() {
  # shellcheck disable=SC2016 # the machine expands it
  on 2 'found=""
    if ip link show kube-ipvs0 >/dev/null 2>&1; then ipvsadm -Ln | grep -q ":80 rr" && found="ipvs"
    elif nft list table ip coracle-proxy >/dev/null 2>&1; then found="nftables"; fi
    if iptables-save -t nat | grep -q "^:KUBE-SERVICES"; then found="$found iptables"; fi
    echo $found'
}
proxy_modes() {
  local mode
  spread
  for mode in nftables iptables ipvs iptables nftables; do proxy_mode $mode; done
}

all="web dns tunnel agent_killed agent_hung upgrade ipvs_traffic proxy_modes reboot graceful_shutdown power_cut partition uninstall one_machine"

# --- running them

finish() {
  [ "${KEEP:-}" = 1 ] && return
  lab_down
}

# What a person wants to read when it failed.
last_words() {
  local i
  k get nodes,pods -o wide 2>&1 | sed 's/^/    /'
  for i in $SERVER $NODES; do
    echo "    --- machine $i"
    within=20 on "$i" 'journalctl --no-pager -n 25 -o cat -u coracle-server -u coracle-node' 2>&1 | sed 's/^/    /' || true
  done
}

scenario() {
  local start=$SECONDS log=$VM_DIR/$1.log
  # In a shell of its own, where the first failure ends it. Neither this function nor its caller may be part of a condition:
  # the shell would ignore -e all the way down.
  set +e
  (set -e; "$1") >"$log" 2>&1
  local ended=$?
  set -e
  if [ $ended = 0 ]; then
    printf 'ok    %4s s  %s\n' $((SECONDS - start)) "${1//_/ }"
  else
    printf 'FAIL  %4s s  %s\n' $((SECONDS - start)) "${1//_/ }"
    sed 's/^/    /' "$log"
    last_words
    failed=1
  fi
}

for name in "$@"; do
  [[ " $all " = *" $name "* ]] || { echo "no scenario $name; there are: $all" >&2; exit 2; }
done
echo "==> Packages, image, kubectl and a release build"
./tests/vm/packages.sh
HOME=$VM_DIR VAGRANT_DOTFILE_PATH=$VM_DIR/vagrant vagrant validate --ignore-provider
./tests/vm/image.sh "$VM_DIR"
if [ -z "${CORACLE_BIN:-}" ]; then cargo build --release --locked --bin coracle --bin coracle-cni; fi
binary=$(realpath "${CORACLE_BIN:-$target/release/coracle}")
plugin=$(ls "$(dirname "$binary")/coracle-cni" 2>/dev/null || true)
if [ -z "${CORACLE_KUBECTL:-}" ]; then ./tests/upstream.sh "$target/tools" kubectl; fi
kubectl=${CORACLE_KUBECTL:-$target/tools/kubectl}
if [ -z "${CORACLE_IMAGES:-}" ]; then ./deploy/images.sh "$target/images"; fi
images=${CORACLE_IMAGES:-$target/images}
[ "${REUSE:-}" = 1 ] || lab_down
trap finish EXIT
trap 'exit 130' INT TERM

failed=0
if [ "${REUSE:-}" != 1 ]; then
  for name in boot install join; do
    scenario $name
    [ $failed = 0 ] || exit 1
  done
fi
[ $# -gt 0 ] || set -- $all
for name in "$@"; do scenario "$name"; done
[ $failed = 0 ] && echo "==> All scenarios passed in $SECONDS s"
exit $failed
