"""A punted frame becomes a message that was heard, or the name of a refusal (`ctrl.refusals`). Never raises.

1. The compiled path has classified the frame (src_cython/fastpath/README.md, rules 1 to 5). Its headers are
   read once more, against the bytes that are there: replay, tests and explain have frames of their own.
   The IP header's checksum is the compiled path's business alone: `verify_checksums` decides about it.
2. The checksum of the message is verified here, and only here.
3. Who speaks, and whether from the link: the Ethernet source must be one station's address. MLD comes from a
   link-local address, with hop limit 1 and a Router Alert for MLD (RFC 9777 section 5); a report may be from
   :: (RFC 4541 section 3), but not with `strict_headers`. IGMP from 0.0.0.0 is as good as any (RFC 4541
   section 2.1.1); its TTL and Router Alert count with `strict_headers` alone: many senders lack them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import MalformedError, Message
from ctrl.protocols.wire import UnknownTypeError

TAGS = (b"\x81\x00", b"\x88\xa8")
MAX_TAGS = 2
HOP_BY_HOP, FRAGMENT, AUTHENTICATION = 0, 44, 51
EXTENSIONS = frozenset((HOP_BY_HOP, 43, AUTHENTICATION, 60))
"""Those that are stepped over; 43 is routing, 60 destination options."""
MAX_EXTENSIONS = 8
MLD_ALERT = b"\x05\x02\x00\x00"
UNSPECIFIED = bytes(16)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message and whose it is. `bits` are those of the addresses: 32 for IGMP, 128 for MLD."""

    mac: bytes
    source: int
    destination: int
    bits: int
    message: Message


def read(frame: bytes, *, strict_headers: bool) -> Heard | str:
    """Read a frame with IGMP or MLD in it; the refusal's name if it is not to be believed."""
    try:
        return _read(frame, strict_headers)
    except UnknownTypeError:
        return "unknown_control"
    except MalformedError:
        return "malformed_control"


def _need(is_met: bool) -> None:
    if not is_met:
        raise MalformedError("the frame ends early, or its headers are at odds with themselves")


def _word(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _read(frame: bytes, strict_headers: bool) -> Heard | str:
    _need(len(frame) >= 14)
    mac = frame[6:12]
    if mac[0] & 1 or not any(mac):
        return "zero_mac"
    at = 12
    for _ in range(MAX_TAGS):
        if frame[at : at + 2] in TAGS:
            at += 4
    ethertype, packet = frame[at : at + 2], frame[at + 2 :]
    _need(len(ethertype) == 2)
    if ethertype == b"\x08\x00":
        return _read_ipv4(packet, mac, strict_headers)
    if ethertype == b"\x86\xdd":
        return _read_ipv6(packet, mac, strict_headers)
    return "unknown_control"


def _read_ipv4(packet: bytes, mac: bytes, strict_headers: bool) -> Heard | str:
    _need(len(packet) >= 20)
    start, end = (packet[0] & 0x0F) * 4, _word(packet, 2)
    _need(packet[0] >> 4 == 4 and 20 <= start <= end <= len(packet))
    _need(_word(packet, 6) & 0x3FFF == 0)  # neither more fragments nor an offset
    if packet[9] != igmp.PROTOCOL:
        return "unknown_control"
    payload = packet[start:end]
    if not igmp.is_sound(payload):
        return "bad_control_checksum"
    is_alert = strict_headers and _has_option(packet[20:start], igmp.ROUTER_ALERT, pad=1, head=0)
    if strict_headers and not (packet[8] == 1 and is_alert):
        return "not_from_the_link"
    source, destination = int.from_bytes(packet[12:16], "big"), int.from_bytes(packet[16:20], "big")
    return Heard(mac, source, destination, 32, igmp.read(payload))


def _read_ipv6(packet: bytes, mac: bytes, strict_headers: bool) -> Heard | str:
    _need(len(packet) >= 40)
    end = 40 + _word(packet, 4)
    _need(packet[0] >> 4 == 6 and end <= len(packet))
    start, protocol, is_alert = _walk(packet[:end])
    if protocol != mld.PROTOCOL:
        return "unknown_control"
    payload = packet[start:end]
    _need(len(payload) > 0)
    if payload[0] not in mld.TYPES:
        return "unknown_control"
    source, destination = packet[8:24], packet[24:40]
    if not mld.is_sound(payload, source, destination):
        return "bad_control_checksum"
    may_be_nobody = payload[0] in (mld.V1_REPORT, mld.V2_REPORT) and not strict_headers
    is_local = source[0] == 0xFE and source[1] & 0xC0 == 0x80
    if not (is_alert and packet[7] == 1 and (is_local or (may_be_nobody and source == UNSPECIFIED))):
        return "not_from_the_link"
    return Heard(
        mac, int.from_bytes(source, "big"), int.from_bytes(destination, "big"), 128, mld.read(payload)
    )


def _walk(packet: bytes) -> tuple[int, int, bool]:
    """Step over extension headers: where they end, what follows, whether they begin with an alert for MLD."""
    at, follows, is_alert = 40, packet[6], False
    n = 0
    while follows in EXTENSIONS:
        _need(n < MAX_EXTENSIONS and at + 8 <= len(packet))
        size = (packet[at + 1] + 2) * 4 if follows == AUTHENTICATION else (packet[at + 1] + 1) * 8
        _need(at + size <= len(packet))
        if n == 0 and follows == HOP_BY_HOP:  # anywhere else it is none (RFC 8200 section 4.1)
            is_alert = _has_option(packet[at + 2 : at + size], MLD_ALERT, pad=0, head=2)
        follows, at, n = packet[at], at + size, n + 1
    _need(follows != FRAGMENT)
    return at, follows, is_alert


def _has_option(options: bytes, wanted: bytes, *, pad: int, head: int) -> bool:
    """Look for an option, whole. `pad` is the one of a single byte, `head` what a length leaves out."""
    at = 0
    while at < len(options):
        if options[at] == pad:
            at += 1
            continue
        if options[at : at + len(wanted)] == wanted:
            return True
        size = options[at + 1] + head if at + 1 < len(options) else 0
        if options[at] == 0 or size < 2:  # IPv4's end of options, or nonsense
            return False
        at += size
    return False
