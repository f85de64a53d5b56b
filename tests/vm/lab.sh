# The lab's machines: a network namespace with a bridge, and QEMU machines on its taps. Sourced by tests/vm/run.sh.
# shellcheck shell=bash
# Machine I has the address 10.77.0.1I; the host is 10.77.0.1 in the namespace, and nowhere else.
#
# Lessons built in: TCG unless told otherwise (VM_ACCEL=kvm where that works); computing is 2-7 times slower than on the
# host and starting a process 40 times, so what waits polls from the host; every waiter sees when its machine has died.

lab=${VM_DIR:?the directory of the lab}
netns=coracle-vm
keep_going=300   # seconds that anything may take before it has failed

lab_address() { echo "10.77.0.1$1"; }

lab_network() {
  local machine
  ip netns add $netns
  ip -n $netns link set lo up
  ip -n $netns link add br0 type bridge
  ip -n $netns addr add 10.77.0.1/24 dev br0
  ip -n $netns link set br0 up
  for machine in "$@"; do
    ip -n $netns tuntap add dev "tap$machine" mode tap
    ip -n $netns link set "tap$machine" master br0 up
  done
}

# lab_boot I [keep]: starts machine I, on a fresh disk unless told to keep the one it has.
lab_boot() {
  local i=$1 accel=(-accel "tcg,thread=multi,tb-size=256" -cpu max)
  [ "${VM_ACCEL:-tcg}" = kvm ] && accel=(-accel kvm -cpu host)
  if [ "${2:-}" != keep ]; then
    rm -f "$lab/disk$i"
    qemu-img create -q -f qcow2 -b "$lab/base.ext4" -F raw "$lab/disk$i"
  fi
  nsenter --net=/run/netns/$netns setsid qemu-system-x86_64 -machine q35 "${accel[@]}" -smp "${VM_CPUS:-1}" -m "${VM_MEMORY:-1024}" \
    -display none -nodefaults -no-user-config -kernel "$lab/vmlinux" -initrd "$lab/initrd.cpio" \
    -append "console=ttyS0 root=/dev/vda rw quiet mitigations=off nokaslr net.ifnames=0 panic=1 lab.ip=$(lab_address "$i")/24 lab.gw=10.77.0.1 lab.host=node$i" \
    -drive "file=$lab/disk$i,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk -device virtio-rng-pci \
    -netdev "tap,id=lan,ifname=tap$i,script=no,downscript=no" -device "virtio-net-pci,netdev=lan,mac=52:54:00:1a:00:0$i" \
    -serial "file:$lab/console$i" </dev/null >"$lab/qemu$i.log" 2>&1 9>&- &
  echo $! >"$lab/pid$i"
}

# By what it is: a number can be somebody else's by now, or that of a machine which nobody has reaped.
lab_alive() { grep -qs "file=$lab/disk$1," "/proc/$(cat "$lab/pid$1" 2>/dev/null)/cmdline"; }

ssh_options=(-q -i "$lab/key" -o ConnectTimeout=5 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes
  -o ServerAliveInterval=5 -o ServerAliveCountMax=3 -o ControlMaster=auto -o ControlPersist=600)

# on I COMMAND...: runs it on machine I, over one kept connection: a new one costs an emulated machine a second.
on() {
  local i=$1
  shift
  nsenter --net=/run/netns/$netns timeout "${within:-$keep_going}" \
    ssh "${ssh_options[@]}" -o ControlPath="$lab/ssh$i" "root@$(lab_address "$i")" "$@" 9>&-
}

# give I FILE... TARGET: copies files to machine I.
give() {
  local i=$1 target=${*: -1}
  shift
  tar -C / -cf - --transform 's#.*/##' --no-recursion "${@:1:$#-1}" 2>/dev/null | on "$i" "mkdir -p $target && tar -xf - -C $target"
}

# forget I: the kept connection of a machine that went down.
forget() { rm -f "$lab/ssh$1"; }

# lab_wait I: until machine I can be logged in to. Fails at once when its QEMU has ended.
lab_wait() {
  local end=$((SECONDS + keep_going))
  while [ $SECONDS -lt $end ]; do
    within=8 on "$1" true 2>/dev/null && return 0
    lab_alive "$1" || { echo "machine $1 has ended: $(tail -n 3 "$lab/qemu$1.log" "$lab/console$1")" >&2; return 1; }
    forget "$1"
    sleep 0.3
  done
  echo "machine $1 could not be logged in to; its console: $lab/console$1" >&2
  return 1
}

# lab_power_off I: pulls the plug.
lab_power_off() {
  if lab_alive "$1"; then kill -KILL "$(cat "$lab/pid$1")"; fi
  while lab_alive "$1"; do sleep 0.1; done
  forget "$1"
}

lab_reboot() {
  local before now end=$((SECONDS + keep_going))
  before=$(on "$1" cat /proc/sys/kernel/random/boot_id)
  on "$1" systemctl reboot 2>/dev/null || true
  while [ $SECONDS -lt $end ]; do
    forget "$1"
    now=$(within=8 on "$1" cat /proc/sys/kernel/random/boot_id 2>/dev/null) && [ "$now" != "$before" ] && return 0
    lab_alive "$1" || { echo "machine $1 has ended instead of rebooting" >&2; return 1; }
    sleep 0.3
  done
  echo "machine $1 did not come back" >&2
  return 1
}

# lab_unplug I, lab_plug I: takes the machine's cable out of the switch, and puts it back.
lab_unplug() { ip -n $netns link set "tap$1" nomaster; }
lab_plug() { ip -n $netns link set "tap$1" master br0; }

# Ends every machine and takes the network away: all that was started here, and nothing else.
lab_down() {
  local file
  for file in "$lab"/pid*; do
    [ -e "$file" ] || continue
    lab_power_off "${file##*pid}"
    rm -f "$file"
  done
  for file in "$lab"/ssh[0-9]*; do
    [ ! -S "$file" ] || ssh -q -o ControlPath="$file" -O exit lab 2>/dev/null || true
  done
  rm -f "$lab"/ssh[0-9]* "$lab"/disk*
  if [ -e /run/netns/$netns ]; then ip netns del $netns; fi
}
