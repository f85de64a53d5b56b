#!/bin/bash
# Installs what the virtual machines need on the host, if anything is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../../deploy/packages.sh" qemu-system-x86 qemu-utils mmdebstrap lz4 cpio e2fsprogs openssh-client vagrant
