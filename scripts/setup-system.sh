#!/bin/sh
# Look for what a build and the tests need from the system. As root on a Debian, install what is missing; otherwise
# print the one line that would. Silent when nothing is missing.
#
#   scripts/setup-system.sh [PYTHON]      fails only if something essential (Python, compiler, headers) stays missing
#   PEERS=1 scripts/setup-system.sh       also what recordings and some tests compare with: CI runs them all
set -eu

python=${1:-python3}
essential= useful=

enough='import sys; sys.exit(sys.version_info < (3, 11))'
missing_essential() {
    essential=
    command -v make >/dev/null || essential="$essential make"
    command -v gcc >/dev/null || essential="$essential gcc"
    [ -e /usr/include/stdio.h ] || essential="$essential libc6-dev"
    [ -e /usr/include/linux/if_packet.h ] || essential="$essential linux-libc-dev"
    if ! "$python" -c "$enough" 2>/dev/null; then
        essential="$essential python3 python3-venv python3-dev"
        return
    fi
    # The packages of a Debian Python carry its version; a Python from elsewhere brings these parts along.
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null || essential="$essential $version-venv"
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$headers/Python.h" ] || essential="$essential $version-dev"
}

# For tests against the kernel's own VXLAN and for reading what we wrote with other eyes: tests that lack them skip.
missing_useful() {
    useful=
    PATH=$PATH:/usr/sbin:/sbin
    command -v ip >/dev/null || useful="$useful iproute2"
    command -v tcpdump >/dev/null || useful="$useful tcpdump"
    command -v ethtool >/dev/null || useful="$useful ethtool"
    command -v nft >/dev/null || useful="$useful nftables"
    [ -n "${PEERS:-}" ] || return 0
    command -v tshark >/dev/null || useful="$useful tshark"
    command -v ovs-vswitchd >/dev/null || useful="$useful openvswitch-switch"
    command -v etcd >/dev/null || useful="$useful etcd-server"
    command -v openssl >/dev/null || useful="$useful openssl"
    [ -e /usr/lib/frr/bfdd ] || useful="$useful frr"
}

missing_essential
missing_useful
[ -n "$essential$useful" ] || exit 0

line="apt-get install -y --no-install-recommends$essential$useful"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: $line" >&2
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  the list is words on purpose
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $essential $useful; } >/dev/null || true
    missing_essential
    missing_useful
fi
if [ -n "$essential$useful" ]; then
    echo "setup: missing:$essential$useful" >&2
    echo "setup: please run:  sudo $line" >&2
fi
[ -z "$essential" ] || exit 1
