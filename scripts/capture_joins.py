"""The recording in which NVEs join and leave while others send: for a device without static members.

Each act is followed by a pause that is longer than what a device takes to believe it (a second for a leave,
by examples/joins.toml), then by traffic that shows it.
"""

import socket
import struct
import time
from ipaddress import ip_address

from capture_file import Frame
from capture_lab import Lab, Wire, set_sysctl
from capture_scenes import BLUE, SMALL, play, query_igmp, query_mld, remove, stream, tenant, wire

IP_ADD_SOURCE_MEMBERSHIP, IP_DROP_SOURCE_MEMBERSHIP = 39, 40  # <linux/in.h>; socket has them from 3.12 on
JOINED_S, LEFT_S, ANSWERED_S = 0.15, 1.4, 0.8
SIX = "ff05::100"


def both(number: int) -> Wire:
    """Return port p<number> of the address plan with the addresses of both families."""
    four, six = wire(number), wire(number, six=True)
    return Wire(
        four.port,
        four.tor_mac,
        four.far_mac,
        four.tor_addresses + six.tor_addresses,
        four.far_addresses + six.far_addresses,
    )


def send(*vms: socket.socket) -> None:
    """Have each VM send a few frames to a group of its network."""
    for vm in vms:
        play(stream(vm, "239.192.1.1", SMALL[2:], 0.0, 0.002))


def joins(lab: Lab) -> list[Frame]:
    """Four Linux VXLAN hosts at one device: p3 speaks IGMPv2, p4 wants one source of a group alone."""
    for number in (1, 2, 3, 4):
        lab.connect(both(number))
    set_sysctl(lab.far("p3"), ipv4__conf__uplink__force_igmp_version=2)
    recorder = lab.record("p1", "p2", "p3", "p4")
    blue1 = tenant(lab, 1, "p1", 100, BLUE)
    send(blue1)  # the first of the group: nobody hears it
    blue2 = tenant(lab, 2, "p2", 100, BLUE)
    time.sleep(JOINED_S)
    send(blue1, blue2)
    blue3 = tenant(lab, 3, "p3", 100, BLUE)
    time.sleep(JOINED_S)
    send(blue1, blue3)
    chooser = lab.open_socket(lab.far("p4"), "uplink", socket.AF_INET, socket.SOCK_DGRAM)
    wanted = struct.pack("!4s4s4s", *(ip_address(a).packed for a in (BLUE, "10.1.4.2", "10.1.1.2")))
    chooser.setsockopt(socket.IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, wanted)
    time.sleep(JOINED_S)
    send(blue1, blue2)  # only the first is for p4
    remove(lab, "p2", "vx100")  # and is back before a device believes it
    blue2 = tenant(lab, 2, "p2", 100, BLUE)
    time.sleep(LEFT_S)
    send(blue1, blue2)
    remove(lab, "p3", "vx100")
    time.sleep(LEFT_S)
    send(blue1)
    chooser.setsockopt(socket.IPPROTO_IP, IP_DROP_SOURCE_MEMBERSHIP, wanted)
    time.sleep(LEFT_S)
    send(blue1)
    six1 = tenant(lab, 1, "p1", 600, SIX)
    send(six1)
    tenant(lab, 2, "p2", 600, SIX)
    tenant(lab, 4, "p4", 600, SIX)
    time.sleep(JOINED_S)
    send(six1)
    for port in ("p1", "p2"):
        query_igmp(lab, port)
        query_mld(lab, port)
    time.sleep(ANSWERED_S)
    remove(lab, "p4", "vx600")
    time.sleep(LEFT_S)
    send(six1, blue2)
    return recorder.stop()
