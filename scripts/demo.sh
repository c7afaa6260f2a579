#!/bin/sh
# What `make demo` shows: a fabric between Linux VXLAN hosts, live, with its parts killed; a real capture through the
# compiled data path, the same traffic at length, and a race on the wire against what the kernel does by itself.
#
#   scripts/demo.sh VENV
set -eu
cd "$(dirname "$0")/.."
bin=$1/bin
work=build/demo
capture=tests/captures/mixed_demo.pcapng
mkdir -p $work

printf '$ fastpath lab demo\n'
status=0
"$bin/fastpath" lab demo || status=$?
case $status in
0) ;;
4) echo "(skipped: see above)" ;; # neither root nor a user namespace
*) exit $status ;;
esac

cat <<TEXT

Offline, from a capture: a ToR with VXLAN hosts on p1 and p2, NVGRE hosts on p3, three other devices across a core without multicast.
Its config is examples/demo.toml; its traffic was recorded from Linux VXLAN devices and Open vSwitch.

\$ fastpath replay $capture -c examples/demo.toml -o $work/copies.pcapng
TEXT
"$bin/fastpath" replay $capture -c examples/demo.toml -o $work/copies.pcapng

printf '\nThe same traffic a thousand times over, without a pause, into a file:\n\n'
"$bin/python" scripts/lengthen_capture.py $capture $work/long.pcapng 1000
"$bin/fastpath" replay $work/long.pcapng -c examples/demo.toml -o $work/long_copies.pcapng | tail -2
rm -f $work/long.pcapng $work/long_copies.pcapng
printf '\nThe copies are in %s: tcpdump, tshark and Wireshark read it.\n' $work/copies.pcapng

cat <<'TEXT'

And live, between network namespaces of its own: one frame for 50 VTEPs, raced against this kernel's VXLAN device.

$ fastpath bench wire --egresses 50 --size 64 --seconds 0.1
TEXT
"$bin/fastpath" bench wire --egresses 50 --size 64 --seconds 0.1 || echo "(skipped: see above)"
