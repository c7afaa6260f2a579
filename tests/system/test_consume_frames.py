"""Frame by frame: the kernel drops exactly what `fastpath.claims.is_consumed` names."""

import random

import pytest

from ctrl.lab.namespaces import Lab, missing
from fastpath.claims import is_consumed, is_watched
from tests import frames
from tests.system.consuming import (
    CLAIMS,
    FAR4,
    FAR6,
    GROUP4,
    GROUP6,
    OURS4,
    OURS6,
    Boxes,
    Stack,
    raw_socket,
    wait_for,
)

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

STRANGER4, STRANGER6 = "10.66.0.77", "fd66::77"
INNER = bytes.fromhex("01005e4d0103 02de1f00ab42 88b5") + bytes(range(40))
N_RANDOM = 3000


def vxlan(far, ours, **knobs):
    return frames.vxlan_packet(INNER, far, ours, 0x4D2, **knobs)


def port(number):
    return {"datagram": {"dport": number}}


def packet(**knobs):
    return {"packet": knobs}


CONSUMED = {
    "vxlan": frames.wire(vxlan(FAR4, OURS4)),
    "vxlan_to_a_group": frames.wire(vxlan(FAR4, GROUP4)),
    "vxlan_6": frames.wire(vxlan(FAR6, OURS6)),
    "vxlan_to_a_group_6": frames.wire(vxlan(FAR6, GROUP6)),
    "nested": frames.wire(vxlan(FAR4, OURS4, **port(4754))),
    "nested_6": frames.wire(vxlan(FAR6, OURS6, **port(4754))),
    "nvgre": frames.wire(frames.nvgre_packet(INNER, FAR4, OURS4, 0x4D2)),
    "nvgre_6": frames.wire(frames.nvgre_packet(INNER, FAR6, OURS6, 0x4D2)),
    "options": frames.wire(vxlan(FAR4, OURS4, **packet(options=b"\x01" * 40))),
    "first_fragment": frames.wire(vxlan(FAR4, OURS4, **packet(flags=1))),
    "priority_tag": frames.wire(vxlan(FAR4, OURS4), tags=((0x8100, 0xE000),)),
    "priority_tag_6": frames.wire(vxlan(FAR6, OURS6), tags=((0x8100, 0xE000),)),
    "service_tag_of_id_0": frames.wire(vxlan(FAR4, OURS4), tags=((0x88A8, 0),)),
    "padding": frames.wire(vxlan(FAR4, OURS4), padding=b"\x55" * 9),
    "cut_behind_the_port": frames.wire(vxlan(FAR6, OURS6)[:44]),
}
LEFT_ALONE = {
    "stranger": frames.wire(vxlan(FAR4, STRANGER4)),
    "stranger_6": frames.wire(vxlan(FAR6, STRANGER6)),
    "broadcast": frames.wire(vxlan(FAR4, "255.255.255.255")),
    "other_port": frames.wire(vxlan(FAR4, OURS4, **port(4790))),
    "other_port_6": frames.wire(vxlan(FAR6, OURS6, **port(4790))),
    "from_our_port": frames.wire(vxlan(FAR4, OURS4, datagram={"sport": 4789, "dport": 53})),
    "tcp_port_4789": frames.wire(frames.ip(b"\xc1\x23\x12\xb5" + bytes(16), FAR4, OURS4, frames.TCP)),
    "gre_of_ip": frames.wire(
        frames.nvgre_packet(INNER, FAR4, OURS4, 1, header={"protocol": frames.IPV4, "flags": 0})
    ),
    "gre_of_ip_6": frames.wire(frames.nvgre_packet(INNER, FAR6, OURS6, 1, header={"protocol": frames.IPV6})),
    "later_fragment": frames.wire(vxlan(FAR4, OURS4, **packet(flags=0, offset=3))),
    "behind_hop_by_hop": frames.wire(
        vxlan(FAR6, OURS6, **packet(extensions=(frames.extension(frames.HOP_BY_HOP),)))
    ),
    "fragment_6": frames.wire(
        vxlan(FAR6, OURS6, **packet(extensions=(frames.fragment_extension(0, more=True),)))
    ),
    "vlan_5": frames.wire(vxlan(FAR4, OURS4), tags=((0x8100, 0x0005),)),
    "vlan_5_6": frames.wire(vxlan(FAR6, OURS6), tags=((0x8100, 0x0005),)),
    "vlan_4095": frames.wire(vxlan(FAR4, OURS4), tags=((0x8100, 0x0FFF),)),
    "service_vlan_5": frames.wire(vxlan(FAR4, OURS4), tags=((0x88A8, 0x0005),)),
    "two_tags": frames.wire(vxlan(FAR4, OURS4), tags=((0x88A8, 0), (0x8100, 5))),
    "two_tags_of_id_0": frames.wire(vxlan(FAR4, OURS4), tags=((0x8100, 0), (0x8100, 0))),
    "version_6_in_ipv4": frames.wire(vxlan(FAR4, OURS4, **packet(version=6)), ethertype=0x0800),
    "version_4_in_ipv6": frames.wire(vxlan(FAR6, OURS6, **packet(version=4)), ethertype=0x86DD),
    "header_of_16_bytes": frames.wire(vxlan(FAR4, OURS4, **packet(ihl=4))),
    "cut_before_the_port": frames.wire(vxlan(FAR6, OURS6)[:43]),
    "arp": frames.arp(),
}
WATCHED = {
    "igmp": frames.wire(frames.igmp(FAR4, "224.0.0.22")),
    "igmp_to_us": frames.wire(frames.igmp(FAR4, OURS4)),
    "mld": frames.wire(frames.mld("fe80::2", "ff02::16")),
}


class Wire:
    """Sends one frame from the far box, and says whether our filter dropped it."""

    def __init__(self, boxes, consumer):
        self.consumer = consumer
        self.stack = Stack(boxes.ours)
        self.sender = raw_socket(boxes.far)

    def is_dropped(self, frame):
        dropped, seen = self.consumer.dropped, self.stack.seen
        self.sender.send(frame)

        def fate():
            return (self.consumer.dropped - dropped, self.stack.seen - seen)

        end = wait_for(lambda: (now := fate()) != (0, 0) and now, f"the fate of {frame.hex()}")
        assert end in ((1, 0), (0, 1))
        return end == (1, 0)

    def close(self):
        self.sender.close()
        self.stack.close()


@pytest.fixture(scope="module")
def wire():
    with Lab("frames") as lab:
        boxes = Boxes(lab)
        boxes.go_silent()
        with boxes.consumer() as consumer:
            made = Wire(boxes, consumer)
            yield made
            made.close()


@pytest.mark.parametrize("name", CONSUMED)
def test_a_tunnel_packet_to_us_or_to_a_group_is_dropped(wire, name):
    assert is_consumed(CLAIMS, CONSUMED[name])
    assert wire.is_dropped(CONSUMED[name])


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_everything_else_goes_on_to_the_stack(wire, name):
    assert not is_consumed(CLAIMS, LEFT_ALONE[name])
    assert not wire.is_dropped(LEFT_ALONE[name])


@pytest.mark.parametrize("name", WATCHED)
def test_reports_and_queries_are_seen_by_the_stack_too(wire, name):
    assert is_watched(WATCHED[name])
    assert not wire.is_dropped(WATCHED[name])


def test_an_ipv4_packet_shorter_than_it_says_is_left_for_the_stack_to_refuse(wire):
    frame = frames.wire(vxlan(FAR4, OURS4))[:-1]
    assert is_refused_by_the_stack(frame)
    assert is_consumed(CLAIMS, frame)
    assert not wire.is_dropped(frame)


def test_random_frames_meet_the_fate_that_the_claims_name(wire):
    dice = random.Random(20261122)
    fates = [0, 0]
    for _ in range(N_RANDOM):
        frame = some_frame(dice)
        expected = is_consumed(CLAIMS, frame) and not is_refused_by_the_stack(frame)
        assert wire.is_dropped(frame) == expected, frame.hex()
        fates[expected] += 1
    assert min(fates) > N_RANDOM // 5


def some_frame(dice):
    """Any of the named frames, mostly with a few bytes of its headers changed, or cut."""
    frame = bytearray(dice.choice([*CONSUMED.values(), *CONSUMED.values(), *LEFT_ALONE.values()]))
    for _ in range(dice.choice((0, 1, 1, 2))):
        at = dice.randrange(12, min(len(frame), 80))
        frame[at] = dice.choice((dice.randrange(256), frame[at] ^ 1 << dice.randrange(8)))
    if dice.random() < 0.1:
        del frame[dice.randrange(20, len(frame)) :]  # what ends within its tag ends there
    return bytes(frame)


def is_refused_by_the_stack(frame):
    """Say whether an IPv4 header contradicts itself or the frame about sizes."""
    at = 18 if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else 14
    if frame[at - 2 : at] != b"\x08\x00" or len(frame) < at + 20:
        return False
    total = int.from_bytes(frame[at + 2 : at + 4], "big")
    return total > len(frame) - at or total < (frame[at] & 15) * 4
