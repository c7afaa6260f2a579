"""BFD control packets: vectors to the last bit, scapy as the other reader and writer, what is malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib import bfd as theirs

from ctrl.protocols import bfd
from ctrl.protocols.bfd import Diag, Packet, State

DOWN = Packet(State.DOWN, 0x01020304, 0, 1_000_000, 300_000, 3)
UP = Packet(State.UP, 0x01020304, 0xA1B2C3D4, 300_000, 500_000, 5, poll=True, demand=True, diag=Diag.EXPIRED)
LAST = Packet(State.ADMIN_DOWN, 0xFFFFFFFF, 1, 0xFFFFFFFF, 0, 255, final=True, diag=Diag.ADMIN_DOWN)
VECTORS = {
    "20 40 03 18 01020304 00000000 000f4240 000493e0 00000000": DOWN,
    "21 e2 05 18 01020304 a1b2c3d4 000493e0 0007a120 00000000": UP,
    "27 10 ff 18 ffffffff 00000001 ffffffff 00000000 00000000": LAST,
}
WORDS = st.integers(0, 2**32 - 1)
PACKETS = st.builds(
    Packet,
    state=st.sampled_from(State),
    mine=st.integers(1, 2**32 - 1),
    yours=st.integers(1, 2**32 - 1),
    tx_us=WORDS,
    rx_us=WORDS,
    multiplier=st.integers(1, 255),
    poll=st.booleans(),
    demand=st.booleans(),
    diag=st.integers(0, 31),
)


@pytest.mark.parametrize(("text", "packet"), VECTORS.items())
def test_a_vector_is_read_and_written_to_the_last_bit(text, packet):
    assert bfd.read(bytes.fromhex(text)) == packet
    assert bfd.write(packet) == bytes.fromhex(text)


@given(packet=PACKETS, final=st.booleans())
def test_scapy_reads_what_we_write_and_we_read_what_scapy_writes(packet, final):
    packet = packet._replace(final=final and not packet.poll)
    seen = theirs.BFD(bfd.write(packet))
    assert (seen.version, seen.sta, seen.diag, seen.detect_mult, seen.len) == (
        1, packet.state, packet.diag, packet.multiplier, 24,
    )  # fmt: skip
    assert (seen.my_discriminator, seen.your_discriminator) == (packet.mine, packet.yours)
    assert (seen.min_tx_interval, seen.min_rx_interval, seen.echo_rx_interval) == (
        packet.tx_us, packet.rx_us, 0,
    )  # fmt: skip
    flags = {"P": packet.poll, "F": packet.final, "D": packet.demand}
    assert {letter for letter, is_set in flags.items() if is_set} == set(str(seen.flags))
    made = theirs.BFD(
        sta=int(packet.state), diag=packet.diag, flags=str(seen.flags), detect_mult=packet.multiplier,
        my_discriminator=packet.mine, your_discriminator=packet.yours, min_tx_interval=packet.tx_us,
        min_rx_interval=packet.rx_us, echo_rx_interval=50_000,
    )  # fmt: skip
    assert bfd.read(bytes(made)) == packet


def changed(place: int, value: int) -> bytes:
    data = bytearray(bfd.write(UP))
    data[place] = value
    return bytes(data)


MALFORMED = {
    "short": bfd.write(UP)[:23],
    "bad_version": changed(0, 0x01),
    "bad_length": changed(3, 25),
    "authenticated": changed(1, 0xC4),
    "zero_multiplier": changed(2, 0),
    "multipoint": changed(1, 0xC1),
    "zero_discriminator": bfd.write(UP._replace(mine=0)),
    "no_your_discriminator": bfd.write(UP._replace(yours=0)),
    "poll_and_final": changed(1, 0xF0),
}


@pytest.mark.parametrize("name", bfd.REFUSALS)
def test_every_malformed_packet_is_refused_by_its_name(name):
    assert bfd.read(MALFORMED[name]) == name


def test_a_length_below_the_header_is_refused_and_bytes_behind_it_do_not_count():
    assert bfd.read(changed(3, 23)) == "bad_length"
    assert bfd.read(changed(3, 0)) == "bad_length"
    assert bfd.read(bfd.write(UP) + b"more") == UP


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_who_does_not_know_us_yet_is_down(state):
    assert bfd.read(bfd.write(DOWN._replace(state=state))) == DOWN._replace(state=state)


@pytest.mark.parametrize("size", range(24))
def test_a_packet_cut_at_any_byte_is_short(size):
    assert bfd.read(bfd.write(UP)[:size]) == "short"


@given(data=st.binary(max_size=64) | st.binary(min_size=22, max_size=30).map(lambda tail: b"\x20\xc0" + tail))
def test_any_bytes_are_a_packet_or_a_refusal_with_a_name(data):
    found = bfd.read(data)
    assert found in bfd.REFUSALS if isinstance(found, str) else bfd.read(bfd.write(found)) == found
