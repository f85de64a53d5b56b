#!/bin/bash
# Makes the disk, kernel and initrd that every virtual machine starts from: Debian 12 with the packages that the
# installer would fetch, so that a machine needs no network but the lab's own.
# usage: tests/vm/image.sh OUT_DIR     makes OUT_DIR/{base.ext4,vmlinux,initrd.cpio,key,key.pub}; does nothing when they are there
set -euo pipefail
self=$(realpath "$0")
out=$(realpath -m "${1:?usage: tests/vm/image.sh OUT_DIR}")
mkdir -p "$out"
recipe=$(cat "$self" "$(dirname "$self")/guest"/* | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ] && exit 0
rm -f "$out/recipe"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

# logind holds back a shutdown while pods end; the modules are those of Service rules in their three modes.
packages=systemd,systemd-sysv,dbus,udev,linux-image-cloud-amd64,kmod,openssh-server,ca-certificates,procps,iproute2,iputils-ping
# What deploy/install.sh asks for.
packages+=,containerd,runc,containernetworking-plugins,nftables,iptables,ipset,ipvsadm,conntrack,ethtool,curl
mmdebstrap --quiet --mode=root --variant=minbase --include=$packages --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  bookworm "$root"

[ -f "$out/key" ] || ssh-keygen -q -t ed25519 -N '' -C coracle-vm -f "$out/key"
install -Dm600 "$out/key.pub" "$root/root/.ssh/authorized_keys"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
printf 'nameserver 192.0.2.53\n' >"$root/etc/resolv.conf"
install -Dm755 "$(dirname "$self")/guest/lab-init" "$root/usr/local/sbin/lab-init"
units=$root/etc/systemd/system
install -Dm644 "$(dirname "$self")/guest/lab-init.service" "$units/lab-init.service"
mkdir -p "$units/multi-user.target.wants"
ln -sf ../lab-init.service "$units/multi-user.target.wants/"
# The log on the disk at once: what a machine said before its power was cut is worth reading.
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nSyncIntervalSec=5s\n' >"$root/etc/systemd/journald.conf.d/lab.conf"
# Each takes seconds under emulation, and none is needed. A masked time daemon is right: the clock is the host's.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-timesyncd.service networking.service getty@tty1.service ipvsadm.service nftables.service systemd-update-utmp.service \
  systemd-pstore.service; do
  ln -sfn /dev/null "$units/$unit"
done
ln -sfn /lib/systemd/system/multi-user.target "$units/default.target"

# The uncompressed kernel (PVH entry): decompressing itself takes an emulated processor longer than all the rest.
vmlinuz=$(echo "$root"/boot/vmlinuz-*)
offset=$(LC_ALL=C grep -abo -m1 $'\x02\x21\x4c\x18' "$vmlinuz" | head -1 | cut -d: -f1)
tail -c +$((offset + 1)) "$vmlinuz" | lz4 -dqf - "$out/vmlinux" 2>/dev/null || true   # what follows the kernel is no lz4
[ -s "$out/vmlinux" ] || { echo "the kernel in $vmlinuz is not packed with lz4; tests/vm/image.sh has to learn its format" >&2; exit 1; }

version=$(basename "$root"/lib/modules/*cloud*)
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net"
mkdir -p "$work/initrd"/{bin,m,dev,new}
cp "$(command -v busybox)" "$work/initrd/bin/busybox"
mknod -m600 "$work/initrd/dev/console" c 5 1
for module in $modules; do
  cp "$(find "$root/lib/modules/$version" -name "$module.ko")" "$work/initrd/m/"
done
cat >"$work/initrd/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $modules; do /bin/busybox insmod /m/\$module.ko; done
while [ ! -b /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /new
/bin/busybox mount --move /dev /new/dev
exec /bin/busybox switch_root /new /sbin/init
INIT
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio -oH newc --quiet) >"$out/initrd.cpio"

rm -f "$out/base.ext4"
truncate -s 8G "$out/base.ext4"
mke2fs -q -t ext4 -d "$root" "$out/base.ext4"
echo "$recipe" >"$out/recipe"
