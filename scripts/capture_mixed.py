"""The two recordings that real senders alone cannot make: the noise, and the demo.

What was built from recorded frames, or from nothing, says so in the frame's comment (pcapng) and in
INDEX.md. Built frames get the time of the frame they come from plus a path of PATH_NS, or a place of their
own in the sequence.
"""

import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import capture_crafted as crafted
from capture_file import Frame
from capture_kinds import kind_of
from capture_lab import Lab, Wire, add_vxlan, run
from capture_scenes import (
    BLUE,
    DEVICE,
    DEVICE_MAC,
    GREEN,
    MDNS_QUESTION,
    MIXED,
    SHARED,
    SMALL,
    ask,
    hypervisor,
    play,
    query_igmp,
    remove,
    stream,
    tenant,
    tenant_mac,
    wire,
)

PATH_NS = 400_000
STEP_NS = 1_000_000
SO_MARK = 36
JUMBO_MTU, JUMBO_PAYLOAD = 4000, 2500
NVGRE_GROUP = "239.1.1.50"
PEER, PEER_MAC = "10.0.0.2", "02:00:00:00:00:02"
TO_CORE = ((PEER_MAC, DEVICE_MAC), (PEER, DEVICE))
TO_P1 = (("02:00:00:01:01:02", "02:00:00:01:01:01"), ("10.1.1.2", "10.1.1.1"))
BEHIND_PEER = Wire("far", "02:00:00:09:09:01", "02:00:00:09:09:02", ("10.2.1.1/24",), ("10.2.1.2/24",))


def noise(lab: Lab) -> list[Frame]:
    """What must not be replicated: other people's traffic from real kernels, damaged frames from scapy."""
    lab.connect(wire(1))
    recorder = lab.record("p1")
    host = lab.far("p1")
    policy = _tenant_like(lab, host, 9, "dstport 4789 gbp")
    policy.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x1234)
    play(stream(policy, "239.192.1.1", SMALL[:2], 0.0, 0.01))
    remove(lab, "p1", "vx9")  # one UDP port is with GBP or without
    good = tenant(lab, 1, "p1", 100, BLUE)
    old_port = _tenant_like(lab, host, 8, "dstport 8472")
    run(f"ip -n {host} link set dev uplink mtu {JUMBO_MTU + 100}")
    jumbo = _tenant_like(lab, host, 10)
    run(f"ip -n {host} link set dev vx10 mtu {JUMBO_MTU}")
    run(
        f"ip -n {host} link set dev uplink mtu 1500"
    )  # the VXLAN device does not notice: its frames are cut up
    underlay = lab.udp(host, "uplink")
    echo = lab.open_socket(host, "uplink", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    play(
        [
            (0.1, lambda: _converse(lab, host, 22, b"SSH-2.0-example\r\n")),
            (0.3, lambda: _converse(lab, host, 179, b"\xff" * 16 + b"\x00\x13\x04")),
            (0.5, lambda: echo.sendto(b"\x08\0\xf7\xfd\0\1\0\1", ("10.1.1.1", 0))),
            (0.6, lambda: underlay.sendto(MDNS_QUESTION, ("10.1.1.1", 53))),
            (0.7, lambda: underlay.sendto(b"ordinary", ("10.1.1.1", 9999))),
            (0.7, lambda: underlay.sendto(b"ordinary", ("239.255.0.1", 9999))),
            *stream(good, "239.192.1.1", (160,), 0.8, 0.0),
            *stream(old_port, "239.192.1.1", SMALL[:3], 0.9, 0.01),
            *stream(jumbo, "239.192.1.1", (JUMBO_PAYLOAD,), 1.1, 0.0),
        ]
    )
    recorded = recorder.stop()
    base = next(frame.data for frame in recorded if kind_of(frame.data).startswith("vxlan 100 > "))
    kept = [frame for frame in recorded if "igmp" not in kind_of(frame.data) and frame.data != base]
    built = [
        *crafted.neighbourly_noise(*TO_P1)[:1],
        *crafted.damaged_vxlan(base),
        *crafted.foreign_gre(*TO_P1),
    ]
    start_ns = kept[-1].time_ns + STEP_NS
    return kept + _spread(built, "p1", start_ns, STEP_NS)


def mixed_demo(lab: Lab) -> list[Frame]:
    """A few seconds at a device: local NVEs on p1 and p2, a peer and Open vSwitch on core, some noise."""
    lab.connect(wire(1))
    lab.connect(wire(2))
    lab.connect(BEHIND_PEER)
    virtual5, virtual6 = hypervisor(lab)
    recorder = lab.record("p1", "p2", "core", "far")
    blue1 = tenant(lab, 1, "p1", 100, BLUE)
    shared1 = tenant(lab, 1, "p1", 300, SHARED)
    blue2 = tenant(lab, 2, "p2", 100, BLUE)
    green2 = tenant(lab, 2, "p2", 200, GREEN)
    green1 = tenant(lab, 1, "p1", 200, GREEN)
    blue9 = tenant(lab, 9, "far", 100, BLUE)
    shared9 = tenant(lab, 9, "far", 300, SHARED)
    for port in ("p1", "p2"):
        _join(lab, port, NVGRE_GROUP)
    play(
        [
            *stream(blue1, "239.192.1.1", MIXED[:13] * 4, 0.5, 0.04),
            *stream(green2, "239.192.2.1", (SMALL + (160,) * 5) * 4, 0.52, 0.05),
            *stream(shared1, "239.192.3.1", (82,) * 24 + MIXED, 0.6, 0.002),
            *stream(blue2, "239.192.1.2", MIXED[5:], 0.7, 0.1),
            *stream(blue9, "239.192.1.9", (64, 160, 160, 160, 243) * 8, 0.55, 0.05),
            *stream(shared9, "239.192.3.9", (160,) * 16 + SMALL, 1.01, 0.0005),
            *stream(virtual5, "239.192.5.1", (64, 103, 160, 160, 512) * 5, 0.6, 0.08),
            *stream(virtual6, "239.192.6.1", SMALL * 3, 0.65, 0.1),
            *ask(blue1, "10.100.0.2", "10.100.0.9", "10.100.0.254", at_s=0.45, gap_s=0.5),
            *ask(blue2, "10.100.0.1", "10.100.0.9", at_s=0.47, gap_s=0.7),
            *ask(green1, "10.200.0.2", "10.200.0.254", at_s=0.6, gap_s=0.6),
            *ask(green2, "10.200.0.1", at_s=0.8),
            *ask(blue9, "10.100.0.1", "10.100.0.2", at_s=0.9, gap_s=0.6),
            *ask(virtual5, "10.50.0.1", "10.50.0.2", at_s=0.7, gap_s=0.5),
            *ask(virtual6, "10.60.0.1", at_s=0.75),
            (1.5, lambda: blue2.sendto(MDNS_QUESTION, ("224.0.0.251", 5353))),
            *[(1.8, partial(query_igmp, lab, port)) for port in ("p1", "p2")],
            (2.7, lambda: remove(lab, "p2", "vx200")),
        ]
    )
    recorded = recorder.stop()
    frames = [_as_it_arrives(frame) for frame in recorded if _belongs(frame)]
    sample = next(frame for frame in frames if frame.interface == "p1" and "multicast" in kind_of(frame.data))
    start_ns, last_ns = frames[0].time_ns, frames[-1].time_ns
    damaged = crafted.damaged_vxlan(sample.data)
    chosen = [damaged[index] for index in (0, 4, 8)]
    frames += _spread(crafted.neighbourly_noise(*TO_CORE), "core", start_ns, (last_ns - start_ns) // 7)
    frames += _spread(crafted.foreign_gre(*TO_CORE)[-1:], "core", start_ns + 777 * STEP_NS, 0)
    frames += _spread(chosen, "p1", start_ns + 900 * STEP_NS, 300 * STEP_NS)
    return sorted(frames, key=lambda frame: frame.time_ns)


def _belongs(frame: Frame) -> bool:
    """Leave out what the peer keeps to itself: reports of its own NVE."""
    return frame.interface != "far" or kind_of(frame.data).startswith("vxlan")


def _as_it_arrives(frame: Frame) -> Frame:
    """Nest what came from behind the peer; let NVE 10.1.2.2 send VSID 5000 to a group; keep all else."""
    if frame.interface == "far":
        data, comment = crafted.nest(frame.data, *TO_CORE)
        return Frame(frame.time_ns + PATH_NS, "core", data, comment)
    if kind_of(frame.data).startswith("nvgre 5000"):
        data, comment = crafted.send_to_group(frame.data, "02:00:00:02:02:02", "10.1.2.2", NVGRE_GROUP)
        return replace(frame, interface="p2", data=data, comment=comment)
    return frame


def _spread(built: Sequence[crafted.Remarked], port: str, start_ns: int, step_ns: int) -> list[Frame]:
    return [
        Frame(start_ns + number * step_ns, port, data, comment)
        for number, (data, comment) in enumerate(built)
    ]


def _tenant_like(lab: Lab, host: str, vni: int, options: str = "dstport 4789") -> socket.socket:
    """Add a segment of an unusual kind to the NVE on p1 and return its VM's socket."""
    name = add_vxlan(host, vni, f"239.1.1.{vni}", tenant_mac(1, vni), (f"10.{vni}.0.1/24",), options)
    return lab.udp(host, name)


def _join(lab: Lab, port: str, group: str) -> None:
    """Join a group on the machine of a port by a plain socket: the kernel's own IGMP speaks."""
    member = lab.open_socket(lab.far(port), "uplink", socket.AF_INET, socket.SOCK_DGRAM)
    own = wire(int(port[1:])).far_addresses[0].split("/")[0]
    member.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(own)
    )


def _converse(lab: Lab, host: str, port: int, words: bytes) -> None:
    """Have a real TCP connection from the NVE to the ToR: open, speak, close."""
    server = lab.open_socket(lab.tor, "p1", socket.AF_INET, socket.SOCK_STREAM)
    server.bind(("10.1.1.1", port))
    server.listen(1)
    with lab.open_socket(host, "uplink", socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(3)
        client.connect(("10.1.1.1", port))
        client.sendall(words)
        accepted, _ = server.accept()
        accepted.recv(64)
        accepted.close()
        client.recv(1)
