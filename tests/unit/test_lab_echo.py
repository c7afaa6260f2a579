"""ICMP echo, against dpkt."""

import dpkt
import pytest

from ctrl.lab import echo

ASKED = bytes.fromhex("12340007") + bytes(range(48))


def packet(icmp: bytes, options: bytes = b"") -> bytes:
    """An IPv4 packet as a raw socket hands it over."""
    return bytes((0x45 + len(options) // 4,)) + bytes(19) + options + icmp


def test_a_request_is_one_to_others():
    request = dpkt.icmp.ICMP(echo.request(ASKED))
    assert (request.type, request.code) == (dpkt.icmp.ICMP_ECHO, 0)
    assert (request.data.id, request.data.seq, request.data.data) == (0x1234, 7, bytes(range(48)))
    assert dpkt.in_cksum(echo.request(ASKED)) == 0


@pytest.mark.parametrize("options", [b"", bytes(8)], ids=["plain", "with options"])
def test_only_the_reply_to_what_was_asked_is_one(options: bytes):
    reply = dpkt.icmp.ICMP(type=dpkt.icmp.ICMP_ECHOREPLY, data=dpkt.icmp.ICMP.Echo(ASKED))
    assert echo.is_reply(packet(bytes(reply), options), ASKED)
    assert not echo.is_reply(packet(echo.request(ASKED), options), ASKED)
    assert not echo.is_reply(packet(bytes(reply), options), ASKED[:3] + b"\x08" + ASKED[4:])


def test_no_cut_of_a_reply_is_one_or_stops_anybody():
    reply = packet(bytes(dpkt.icmp.ICMP(type=0, data=dpkt.icmp.ICMP.Echo(ASKED))))
    assert [size for size in range(len(reply) + 1) if echo.is_reply(reply[:size], ASKED)] == [len(reply)]
