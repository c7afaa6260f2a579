"""What happens in the recordings of real senders alone: who joins, who sends what, and when.

Times are written down beside the acts, so that a recording takes the same course every time; a kernel's own
random delays (reports, duplicate address detection) are the only thing left to luck. A VXLAN device is its
own VM, which shows the same frames as a VM behind a bridge, without the bridge's noise.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from capture_file import Frame
from capture_lab import Lab, Wire, add_vxlan, run, settle

INNER_HEADERS = 14 + 20 + 8
SMALL = (64, 64, 64, 103, 160)
MIXED = (64, 160, 160, 160, 160, 160, 160, 82, 512, 512, 512, 243, 1028, 1400, 1400)
MDNS_QUESTION = b"\0\0\0\0\0\1\0\0\0\0\0\0\x05_http\x04_tcp\x05local\0\0\x0c\0\1"
IPV6_HOPOPTS = 54
ROUTER_ALERT_V6 = b"\x3a\0\5\2\0\0\1\0"

BLUE, GREEN, SHARED = "239.1.1.100", "239.1.1.200", "239.1.1.7"
DEVICE, HYPERVISOR = "10.0.0.1", "10.0.0.3"
DEVICE_MAC, HYPERVISOR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:03"
CORE = Wire("core", DEVICE_MAC, "02:00:00:00:00:13", (f"{DEVICE}/24",), ())

Act = tuple[float, Callable[[], object]]


def wire(number: int, six: bool = False) -> Wire:
    """Return port p<number> of the address plan: 10.1.<number>.0/24, or fd00:1:<number>::/64."""
    mac = f"02:00:00:0{number}:0{number}"
    net, tail, size = (f"fd00:1:{number}", "::", 64) if six else (f"10.1.{number}", ".", 24)
    return Wire(f"p{number}", f"{mac}:01", f"{mac}:02", (f"{net}{tail}1/{size}",), (f"{net}{tail}2/{size}",))


def tenant_mac(nve: int, vni: int) -> str:
    """Return the fixed MAC of the VM of one NVE in one segment."""
    return f"02:d0:0{nve}:00:{vni >> 8:02x}:{vni & 255:02x}"


def tenant(lab: Lab, nve: int, port: str, vni: int, group: str, *addresses: str) -> socket.socket:
    """Add a segment to an NVE and return its VM's socket; 10.<vni low byte>.0.<nve> unless said otherwise."""
    namespace = lab.far(port)
    own = addresses or (f"10.{vni & 255}.0.{nve}/24",)
    name = add_vxlan(namespace, vni, group, tenant_mac(nve, vni), own)
    return lab.udp(namespace, name)


def play(acts: Iterable[Act]) -> None:
    """Do each act at its second, counted from now."""
    start = time.monotonic()
    for at_s, act in sorted(acts, key=lambda entry: entry[0]):
        time.sleep(max(0.0, start + at_s - time.monotonic()))
        act()


def stream(vm: socket.socket, group: str, sizes: Sequence[int], at_s: float, gap_s: float) -> Iterator[Act]:
    """Send one inner frame of each size to a multicast group, numbered as market data is."""
    for number, size in enumerate(sizes):
        payload = struct.pack("!QI", number + 1, size).ljust(size - INNER_HEADERS, b"\x2e")
        yield at_s + number * gap_s, partial(vm.sendto, payload, (group, 30001))


def ask(vm: socket.socket, *addresses: str, at_s: float, gap_s: float = 0.01) -> Iterator[Act]:
    """Have the kernel look for neighbours that are not there: one ARP or neighbour solicitation each."""
    for number, address in enumerate(addresses):
        yield at_s + number * gap_s, partial(vm.sendto, b"?", (address, 9))


def remove(lab: Lab, port: str, device: str) -> None:
    """Take a segment from an NVE, which leaves its group if that was the last one there."""
    run(f"ip -n {lab.far(port)} link del {device}")


def query_igmp(lab: Lab, port: str, version: int = 3) -> None:
    """Ask the machine on a port for its IPv4 groups, as a querier does; it answers within half a second."""
    query = struct.pack("!BBH4s", 0x11, 5, 0, b"") + (b"\2\x7d\0\0" if version == 3 else b"")
    total = sum(struct.unpack(f"!{len(query) // 2}H", query))
    query = query[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + query[4:]
    raw = lab.open_socket(lab.tor, port, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\x04\0\0")
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    raw.sendto(query, ("224.0.0.1", 0))


def query_mld(lab: Lab, port: str) -> None:
    """Ask the machine on a port for its IPv6 groups; it answers within half a second."""
    query = struct.pack("!BBHHH16sBBH", 130, 0, 0, 500, 0, b"", 2, 125, 0)
    raw = lab.open_socket(lab.tor, port, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    raw.setsockopt(socket.IPPROTO_IPV6, IPV6_HOPOPTS, ROUTER_ALERT_V6)
    raw.sendto(query, ("ff02::1", 0))


def vxlan_igmp(lab: Lab) -> list[Frame]:
    """Three Linux VXLAN NVEs: join, ask, stream, leave; VNIs 300 and 301 share a group."""
    for number in (1, 2, 3):
        lab.connect(wire(number))
    recorder = lab.record("p1", "p2", "p3")
    blue1 = tenant(lab, 1, "p1", 100, BLUE, "10.100.0.1/24", "fd00:100::1/64")
    shared1 = tenant(lab, 1, "p1", 300, SHARED)
    other1 = tenant(lab, 1, "p1", 301, SHARED)
    blue2 = tenant(lab, 2, "p2", 100, BLUE)
    green2 = tenant(lab, 2, "p2", 200, GREEN, "10.200.0.2/24", "fd00:200::2/64")
    tenant(lab, 2, "p2", 300, SHARED)
    green3 = tenant(lab, 3, "p3", 200, GREEN)
    other3 = tenant(lab, 3, "p3", 301, SHARED)
    blue1_six = lab.udp(lab.far("p1"), "vx100", socket.AF_INET6)
    one, known = lab.far("p1"), tenant_mac(2, 100)
    run(f"ip -n {one} route add default via 10.1.1.1")
    run(f"ip -n {one} neighbour add 10.100.0.77 lladdr 02:d0:00:00:00:77 dev vx100")
    run(f"ip -n {one} neighbour add 10.100.0.2 lladdr {known} dev vx100")
    run(f"bridge -n {one} fdb append {known} dev vx100 dst 10.1.2.2")
    play(
        [
            *stream(blue1, "239.192.1.1", MIXED, 0.0, 0.001),
            *stream(blue2, "239.192.1.2", MIXED[5:11], 0.02, 0.06),
            *stream(green2, "239.192.2.1", MIXED[:11], 0.01, 0.04),
            *stream(green3, "239.192.2.1", SMALL * 2, 0.015, 0.05),
            *stream(shared1, "239.192.3.1", SMALL, 0.02, 0.05),
            *stream(other3, "239.192.3.1", SMALL, 0.03, 0.05),
            *ask(blue1, "10.100.0.3", "10.100.0.254", at_s=0.1),
            *ask(blue2, "10.100.0.1", at_s=0.15),
            *ask(green3, "10.200.0.2", "10.200.0.254", at_s=0.2),
            *ask(other1, "10.45.0.3", at_s=0.25),
            *ask(blue1, *["10.100.0.77"] * 3, at_s=0.3),  # a MAC that nobody has learnt: flooded
            *ask(blue1, *["10.100.0.2"] * 3, at_s=0.35),  # a MAC learnt behind 10.1.2.2: unicast
            (0.4, lambda: blue1.sendto(MDNS_QUESTION, ("224.0.0.251", 5353))),
            (1.6, partial(settle, one, "vx100")),
            (1.7, lambda: blue1_six.sendto(MDNS_QUESTION, ("ff02::fb", 5353))),
            *ask(blue1_six, "fd00:100::2", at_s=1.75),
            *[(2.5, partial(query_igmp, lab, port)) for port in ("p1", "p2")],
            (2.5, lambda: query_igmp(lab, "p3", version=2)),
            *[(3.2, partial(remove, lab, port, "vx200")) for port in ("p2", "p3")],
            (4.4, lambda: None),
        ]
    )
    return recorder.stop()


def vxlan_v6_mld(lab: Lab) -> list[Frame]:
    """Two Linux VXLAN NVEs on an IPv6 underlay."""
    for number in (1, 2):
        lab.connect(wire(number, six=True))
    recorder = lab.record("p1", "p2")
    blue1 = tenant(lab, 1, "p1", 100, "ff05::100", "10.100.0.1/24", "fd00:100::1/64")
    blue2 = tenant(lab, 2, "p2", 100, "ff05::100")
    green2 = tenant(lab, 2, "p2", 200, "ff05::200")
    play(
        [
            *stream(blue1, "239.192.1.1", MIXED[5:], 1.0, 0.001),
            *stream(green2, "239.192.2.1", SMALL, 1.0, 0.05),
            *ask(blue1, "10.100.0.2", "10.100.0.254", at_s=1.1),
            *ask(blue2, "10.100.0.1", at_s=1.15),
            *[(2.5, partial(query_mld, lab, port)) for port in ("p1", "p2")],
            (3.3, lambda: remove(lab, "p2", "vx200")),
            (4.5, lambda: None),
        ]
    )
    return recorder.stop()


def hypervisor(lab: Lab) -> tuple[socket.socket, socket.socket]:
    """Put an Open vSwitch with a VM in VSID 5000 and one in 6000 on port core; return the VMs' sockets.

    The key carries VSID and FlowID: ARP goes as flow 0, all else as flow 42 (first VM) or 7 (second VM).
    """
    lab.connect(CORE)
    switch = lab.start_ovs("core", HYPERVISOR_MAC, f"{HYPERVISOR}/24")
    guests = [
        lab.vm_link("core", f"vm{number}", f"02:d0:03:0{number}:00:01", f"10.{number}0.0.3/24")
        for number in (5, 6)
    ]
    tunnel = f"options:local_ip={HYPERVISOR} options:remote_ip={DEVICE} options:key=flow"
    switch.vsctl(
        "add-port br-int vm5 -- add-port br-int vm6 -- add-port br-int nvgre "
        f"-- set interface nvgre type=gre {tunnel}"
    )
    switch.appctl(f"tnl/neigh/set br-phy {DEVICE} {DEVICE_MAC}")
    switch.ofctl("del-flows br-int")
    for port, vsid, flow in (("vm5", 5000, 42), ("vm6", 6000, 7)):
        for match, low in (("arp", 0), ("ip", flow)):
            key = f"set_tunnel:{vsid << 8 | low:#x}"
            switch.ofctl(f"add-flow br-int in_port={port},{match},actions={key},output:nvgre")
    first, second = (lab.udp(guest, "eth0") for guest in guests)
    return first, second


def nvgre_ovs(lab: Lab) -> list[Frame]:
    """One Open vSwitch in userspace sends two VSIDs to the device by NVGRE."""
    first, second = hypervisor(lab)
    recorder = lab.record("core")
    play(
        [
            *ask(first, "10.50.0.1", "10.50.0.2", "10.50.0.254", at_s=0.0, gap_s=0.2),
            *ask(second, "10.60.0.1", "10.60.0.254", at_s=0.1, gap_s=0.2),
            *stream(first, "239.192.5.1", MIXED, 0.2, 0.05),
            *stream(second, "239.192.6.1", SMALL * 2, 0.22, 0.06),
            (1.0, lambda: first.sendto(MDNS_QUESTION, ("224.0.0.251", 5353))),
        ]
    )
    return recorder.stop()
