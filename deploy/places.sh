# shellcheck shell=bash
# What the scripts here know of a host's two places. Sourced, with $state and $run set.
# shellcheck disable=SC2154

# A pid file can outlive its process, and the number go to somebody else's.
coracle_runs() { [ -r "$run/coracle.pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$run/coracle.pid")/cmdline" | grep -qF -- " up --config $state/config.yaml"; }

# Of the mounts that are read (in the form of /proc/self/mounts), the mount points below the two places, deepest first, each ended by a zero byte.
mounts() {
  local point places
  # The kernel follows links, too.
  places=("$(realpath -m "$state")" "$(realpath -m "$run")")
  while read -r _ point _; do
    # The kernel writes blanks and backslashes in octal.
    printf -v point '%b' "$point"
    case $point in "${places[0]}"/* | "${places[1]}"/*) printf '%s\0' "$point" ;; esac
  done | LC_ALL=C sort -rz
}

# Removing files through a mount would remove somebody else's, such as what a pod had from its host.
refuse_mounts() {
  local left
  left=$(mounts </proc/self/mounts | tr '\0' '\n')
  [ -n "$left" ] || return 0
  echo "Nothing is removed while something is mounted below $state or $run. Unmount it (umount -l), then run this again:" >&2
  echo "$left" >&2
  return 1
}
