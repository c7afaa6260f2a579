"""Lines of CONFORMANCE.md over the whole path: a config, a capture, `ctrl.replay`, the copies in a file.

Each test says its number. `checked` holds every replay against the reference as well, and balances its books.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from ctrl.config import parse
from fastpath.reference.wire import checksum
from tests import frames as f
from tests.captures_io import pcap
from tests.replaying import Checked, checked, config_of

GROUP, VNI = "239.1.1.100", 100
NVE, OTHER_NVE = "10.1.1.2", "10.1.2.2"
TENANT = f.tenant()


def port(name: str, faces: str, address: str = "", **more: object) -> str:
    """A [[port]] of a config."""
    keys = "".join(f"{key} = {value!r}\n" for key, value in more.items())
    return (
        f'[[port]]\nname = "{name}"\nfaces = "{faces}"\n{f"address = {address!r}" if address else ""}\n{keys}'
    )


def device(address: str, *peers: str, more: str = "", extra: str = "") -> str:
    """A [device] with members of the group on p1 and p2, and peers."""
    members = "".join(f'[[device.member]]\ngroup = "{GROUP}"\nport = "{name}"\n' for name in ("p1", "p2"))
    tunnels = f'[[device.peer]]\ngroup = "{GROUP}"\naddresses = {list(peers)}\n' if peers else ""
    return f'[device]\naddress = "{address}"\n{more}\n{members}{extra}{tunnels}'


def tor(address: str, *peers: str, more: str = "", extra: str = "", **core: object) -> str:
    """A ToR: p1 and p2 to NVEs, one port to the core."""
    ports = port("p1", "nve") + port("p2", "nve") + port("core", "core", f"{address}/24", **core)
    return ports + device(address, *peers, more=more, extra=extra)


def replicator(
    *receivers: str, address: str = "10.0.0.110", more: str = "", key: str = f'group = "{GROUP}"'
) -> str:
    """A [replicator] with one list."""
    table = f'[replicator]\naddress = "{address}"\n{more}\n'
    return f"{table}[[replicator.list]]\n{key}\naddresses = {list(receivers)}\n"


POINT_PORT = port("core", "core", "10.0.0.110/24")


def to_group(
    source: str = NVE, group: str = GROUP, vni: int = VNI, inner: bytes = TENANT, **knobs: Any
) -> bytes:
    """A frame of an NVE to its group."""
    return f.wire(f.vxlan_packet(inner, source, group, vni, **knobs))


def nested(sender: str, to: str, packet: bytes = to_group()[14:]) -> bytes:
    """A tunnel packet between devices."""
    return f.wire(f.nested_packet(packet, sender, to))


class Wire:
    """Replays, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def __call__(self, config: str, *frames: bytes, in_port: str) -> Checked:
        """Send frames through a box and give what became of them."""
        number = next(self._numbers)
        capture = self._folder / f"in{number}.pcap"
        capture.write_bytes(pcap((10**18 + i * 10**6, data) for i, data in enumerate(frames)))
        return checked(config_of(config), capture, self._folder / f"out{number}.pcapng", in_port)


@pytest.fixture
def send(tmp_path: Path) -> Wire:
    """Give a way to send frames through a box."""
    return Wire(tmp_path)


def destinations(copies: list[bytes]) -> list[str]:
    """The outer destination addresses, in order."""
    return [str(ip_address(data[30:34])) for data in copies]


# --- from device to point to device -------------------------------------------------------------------------


def test_a_frame_of_an_nve_reaches_the_other_nves_and_over_the_point_all_other_devices(send: Wire):
    """D9, D11, D12, D13, D20, R2, R3, R4, R5: three boxes in a row, nothing lost, doubled or changed."""
    sent = to_group()
    first = send(tor("10.0.0.1", "10.0.0.110"), sent, in_port="p1")
    assert [name for name, _ in first.copies] == [
        "p2",
        "core",
    ]  # D9: not back to p1; D11: one copy, to the point
    assert destinations(first.by("core")) == ["10.0.0.110"]
    assert Ether(first.by("core")[0])[IP].src == "10.0.0.1"  # D20

    middle = send(
        POINT_PORT + replicator("10.0.0.1", "10.0.0.2", "10.0.0.3"), *first.by("core"), in_port="core"
    )
    assert destinations(middle.by("core")) == ["10.0.0.2", "10.0.0.3"]  # R3, R4: all but who sent it
    assert {data[46:] for data in middle.by("core")} == {sent[14:]}  # R5: bit for bit

    for address, tunnel in zip(("10.0.0.2", "10.0.0.3"), middle.by("core"), strict=True):
        last = send(tor(address, "10.0.0.110"), tunnel, in_port="core")
        assert [name for name, _ in last.copies] == ["p1", "p2"]  # D12: to members only, never into a tunnel
        assert {data[14:] for _, data in last.copies} == {sent[14:]}  # D13: decapsulated, as the NVE sent it
        assert {data[:6].hex() for _, data in last.copies} == {"01005e010164"}


def test_in_a_mesh_there_is_one_tunnel_copy_for_each_other_device(send: Wire):
    """D11."""
    result = send(tor("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"), to_group(), in_port="p2")
    assert destinations(result.by("core")) == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert len(result.by("p1")) == 1


def test_a_device_without_peers_or_without_other_members_makes_only_the_other_part(send: Wire):
    """D9, D10: either part may be empty; with both empty the frame is dropped and counted."""
    no_peers = tor("10.0.0.1")
    assert [name for name, _ in send(no_peers, to_group(), in_port="p1").copies] == ["p2"]
    alone = no_peers.replace('port = "p2"', 'port = "p1"\nnve = "10.1.1.2"')
    assert send(alone, to_group(), in_port="p1").reasons() == {"no_receiver": 1}
    peers = tor("10.0.0.1", "10.0.0.2").replace('port = "p2"', 'port = "p1"\nnve = "10.1.1.2"')
    assert [name for name, _ in send(peers, to_group(), in_port="p1").copies] == ["core"]


def test_a_tunnel_packet_that_claims_a_local_nve_s_source_still_goes_to_no_tunnel(send: Wire):
    """D12: the source class is the port's, whatever a header claims."""
    config = tor("10.0.0.1", "10.0.0.2", "10.0.0.3")
    forged = to_group(source=NVE)
    result = send(config, nested("10.0.0.2", "10.0.0.1", forged[14:]), forged, in_port="core")
    assert {name for name, _ in result.copies} == {"p1", "p2"}


REWRITE = 'tunnel = "rewrite"\n'
BLUE = f'[[network]]\nname = "blue"\nvni = {VNI}\ngroup = "{GROUP}"\n'


def test_a_rewritten_packet_finds_its_group_again_by_its_number(send: Wire):
    """D14: it leaves as plain VXLAN to the peer, and arrives without a word of the group."""
    config = tor("10.0.0.1", "10.0.0.2", more=REWRITE) + BLUE
    (tunnel,) = send(config, to_group(), in_port="p1").by("core")
    assert (tunnel[14 + 16 : 14 + 20], tunnel[14 + 28 :]) == (bytes((10, 0, 0, 2)), to_group()[14 + 28 :])
    there = tor("10.0.0.2", "10.0.0.1", more=REWRITE) + BLUE
    arrived = send(there, tunnel, in_port="core")
    assert [name for name, _ in arrived.copies] == ["p1", "p2"]
    assert set(destinations([data for _, data in arrived.copies])) == {GROUP}


def test_a_rewritten_packet_whose_group_is_not_certain_is_refused_and_counted(send: Wire):
    """D14, N9: two networks of one number with different groups; a config of rewritten tunnels may not."""
    other = BLUE.replace("blue", "other").replace(GROUP, "239.1.1.7")
    plain = f.wire(f.vxlan_packet(TENANT, "10.0.0.2", "10.0.0.1", VNI))
    result = send(tor("10.0.0.1", "10.0.0.2") + BLUE + other, plain, in_port="core")
    assert result.reasons() == {"ambiguous_group": 1}
    refused = parse(tor("10.0.0.1", "10.0.0.2", more=REWRITE) + BLUE + other)
    assert refused.config is None
    assert "the group of a packet cannot be told from its number" in "\n".join(map(str, refused.findings))


def test_a_group_that_nobody_wants_is_dropped_and_a_sender_need_not_be_a_member(send: Wire):
    """D15: unless strict_members says so."""
    config = tor("10.0.0.1", "10.0.0.2", extra='[[device.member]]\ngroup = "239.1.1.5"\nport = "p1"\n')
    result = send(config, to_group(group="239.9.9.9"), to_group(group="239.1.1.5"), in_port="p2")
    assert result.reasons() == {"unknown_group": 1}
    assert [name for name, _ in result.copies] == ["p1"]
    strict = config.replace("[device]\n", "[device]\nstrict_members = true\n")
    assert send(strict, to_group(group="239.1.1.5"), in_port="p2").reasons() == {"not_a_member": 1}
    assert len(send(strict, to_group(), in_port="p2").copies) == 2


# --- link-local groups --------------------------------------------------------------------------------------

LINK_LOCAL = ("224.0.0.5", "ff02::5")


@pytest.mark.parametrize("group", LINK_LOCAL)
@pytest.mark.parametrize(
    "where", ["device.member", "device.peer", "replicator.list", "network", "network.map"]
)
def test_a_link_local_group_is_refused_wherever_a_config_names_one(group: str, where: str):
    """D17: so it can be in no list, and neither be tunnelled nor become second information."""
    config = (
        tor("10.0.0.1", "10.0.0.2") + BLUE + '[[network.map]]\ninner = "239.0.0.0/8"\ngroup = "239.1.1.7"\n'
    )
    config += replicator("10.0.0.2")
    assert parse(config).config is not None
    table, key = f"[[{where}]]", 'group = "'
    at = config.index(key, config.index(table)) + len(key)
    bad = config[:at] + group + config[config.index('"', at) :]
    reading = parse(bad)
    assert reading.config is None
    (finding,) = (one for one in reading.findings if one.severity.value == "error")
    assert finding.key.endswith(".group")
    assert finding.message.startswith(f'"{group}" is link-local')
    assert "never tunnelled" in finding.message


def test_data_to_a_link_local_group_is_never_tunnelled(send: Wire):
    """D17: whatever an NVE sends there."""
    frames = [to_group(group="224.0.0.5"), f.wire(f.vxlan_packet(TENANT, "fe80::7", "ff02::5", VNI))]
    result = send(tor("10.0.0.1", "10.0.0.2"), *frames, in_port="p1")
    assert (result.reasons(), result.copies) == ({"unknown_group": 2}, [])


# --- the replication point ----------------------------------------------------------------------------------


def test_a_point_drops_unknown_groups_unknown_senders_and_foreign_numbers(send: Wire):
    """R6, R7: each with its own counter; allow_from is the option to accept."""
    config = POINT_PORT + replicator("10.0.0.1", "10.0.0.2", more='vnis = ["100-199"]')
    frames = [
        nested("10.0.0.1", "10.0.0.110", to_group(group="239.1.1.7")[14:]),
        nested("10.0.0.9", "10.0.0.110"),
        nested("10.0.0.1", "10.0.0.110", to_group(vni=200)[14:]),
        nested("10.0.0.1", "10.0.0.110", to_group(vni=199)[14:]),
    ]
    result = send(config, *frames, in_port="core")
    assert result.reasons() == {"unknown_peer": 1, "wrong_point": 1, "unknown_group": 1}
    assert destinations(result.by("core")) == ["10.0.0.2"]
    accepting = POINT_PORT + replicator("10.0.0.1", "10.0.0.2", more='allow_from = ["10.0.0.9"]')
    assert destinations(send(accepting, frames[1], in_port="core").by("core")) == ["10.0.0.1", "10.0.0.2"]


def test_a_device_and_a_point_in_one_box_handle_a_packet_once(send: Wire):
    """R8: what is sent to the device is not replicated by the point as well, nor the other way round."""
    both = tor("10.0.0.1", "10.0.0.2") + replicator("10.0.0.2", "10.0.0.3")
    device_s = send(both, nested("10.0.0.2", "10.0.0.1"), in_port="core")
    assert [name for name, _ in device_s.copies] == ["p1", "p2"]
    point_s = send(both, nested("10.0.0.2", "10.0.0.110"), in_port="core")
    assert [(name, *destinations([data])) for name, data in point_s.copies] == [("core", "10.0.0.3")]
    nve_s = send(both, to_group(), in_port="p1")
    assert [(name, *destinations([data])) for name, data in nve_s.copies] == [
        ("p2", GROUP),
        ("core", "10.0.0.2"),
    ]
    for result in (device_s, point_s, nve_s):
        assert (result.done.statistics.received, result.done.statistics.replicated) == (1, 1)


def test_a_destination_that_gets_nothing_neither_stops_nor_delays_the_others_and_is_counted_by_itself(
    send: Wire,
):
    """R9: the way to one device is too narrow; the counters say whose copies were lost, and how many."""
    narrow = port("narrow", "core", "10.7.0.1/24", mtu=576)
    config = POINT_PORT + narrow + replicator("10.0.0.1", "10.0.0.2", "10.7.0.3", "10.0.0.4")
    large = to_group(inner=f.tenant(size=600))[14:]
    frames = [nested("10.0.0.1", "10.0.0.110", packet) for packet in (large, to_group()[14:], large)]
    result = send(config, *frames, in_port="core")
    counted = {str(row.egress.address): (row.copies, row.dropped) for row in result.done.statistics.egresses}
    assert counted == {"10.0.0.2": (3, 0), "10.7.0.3": (1, 2), "10.0.0.4": (3, 0)}
    assert destinations([data for _, data in result.copies]) == [
        *("10.0.0.2", "10.0.0.4"),
        *("10.0.0.2", "10.0.0.4", "10.7.0.3"),
        *("10.0.0.2", "10.0.0.4"),
    ]
    assert result.reasons() == {"over_mtu": 2}
    assert result.done.statistics.replicated == 3


def test_a_list_of_only_the_sender_makes_no_copy_and_is_counted(send: Wire):
    """R10."""
    result = send(POINT_PORT + replicator("10.0.0.1"), nested("10.0.0.1", "10.0.0.110"), in_port="core")
    assert (result.copies, result.reasons()) == ([], {"no_receiver": 1})


AR, IR = "10.0.0.111", "10.0.0.110"
ASSISTED = {"more": f'replicate = "{AR}"', "key": f"vni = {VNI}"}


def test_what_is_sent_to_the_replicate_address_goes_to_all_others_and_what_is_sent_to_the_own_address_to_none(
    send: Wire,
):
    """W7 (RFC 9574): the AR-IP serves the other leaves and the other replicator's IR-IP (10.0.0.120), minus
    the source; the IR-IP only local members, of which a point has none."""
    to_ar, to_ir = (f.wire(f.vxlan_packet(TENANT, "10.0.0.1", to, VNI)) for to in (AR, IR))
    config = POINT_PORT + replicator("10.0.0.1", "10.0.0.2", "10.0.0.120", address=IR, **ASSISTED)
    served = send(config, to_ar, in_port="core")
    assert destinations(served.by("core")) == ["10.0.0.2", "10.0.0.120"]
    assert {Ether(data)[IP].src for data in served.by("core")} == {"10.0.0.1"}
    assert send(config, to_ir, in_port="core").reasons() == {"no_receiver": 1}


def test_a_device_that_shares_its_address_with_a_point_takes_the_own_address_for_its_local_members_alone(
    send: Wire,
):
    """W7, R8: device and point with one IR-IP, and an AR-IP beside it."""
    roles = tor("10.0.0.1", "10.0.0.2") + replicator("10.0.0.2", "10.0.0.120", address="10.0.0.1", **ASSISTED)
    both = roles + BLUE
    to_ar, to_own = (f.wire(f.vxlan_packet(TENANT, "10.0.0.2", to, VNI)) for to in (AR, "10.0.0.1"))
    copied_on = send(both, to_ar, in_port="core")
    assert [(name, *destinations([data])) for name, data in copied_on.copies] == [("core", "10.0.0.120")]
    delivered = send(both, to_own, in_port="core")
    assert [name for name, _ in delivered.copies] == ["p1", "p2"]


# --- on the wire --------------------------------------------------------------------------------------------


def test_reserved_bits_are_ignored_and_kept_unless_they_are_to_be_cleared_or_refused(send: Wire):
    """W1: and a frame without the I flag is dropped."""
    marked = to_group(header={"flags": 0x8C, "reserved": 0x123456, "last": 0x9A})
    config = tor("10.0.0.1") + BLUE
    assert send(config, marked, in_port="p1").by("p2")[0][42:50].hex() == "8c123456000064" + "9a"
    cleared = send(config + "clear_reserved = true\n", marked, in_port="p1").by("p2")
    assert cleared[0][42:50].hex() == "0800000000006400"
    strict = "[dataplane]\nstrict_reserved = true\n"
    assert send(config + strict, marked, in_port="p1").reasons() == {"reserved_bits": 1}
    assert send(config, to_group(header={"flags": 0x04}), in_port="p1").reasons() == {"no_vni_flag": 1}


def test_a_checksum_that_came_right_leaves_right_after_every_rewrite(send: Wire):
    """W1: to a unicast NVE and to a peer; the source port is one of the dynamic range where we make it."""
    config = tor(
        "10.0.0.1",
        "10.0.0.2",
        more=REWRITE,
        extra=f'[[device.member]]\ngroup = "{GROUP}"\nport = "p2"\nnve = "10.1.2.9"\n',
    )
    result = send(config, to_group(datagram={"checksum": f.RIGHT}), in_port="p1")
    assert len(result.copies) == 3
    for _, data in result.copies:
        assert Ether(data)[UDP].chksum != 0
        pseudo = data[26:34] + bytes((0, 17)) + data[38:40]
        assert checksum(pseudo + data[34:]) == 0
    (tunnel,) = send(tor("10.0.0.1", "10.0.0.2"), to_group(), in_port="p1").by("core")
    assert 49152 <= Ether(tunnel)[UDP].sport <= 65535


def test_copies_to_a_port_that_speaks_nvgre_are_nvgre_of_the_network_s_vsid_with_one_flow_id_per_flow(
    send: Wire,
):
    """W2: K alone, protocol 0x6558; without a legal VSID, or with a tag inside, there is no such copy."""
    config = tor("10.0.0.1").replace('name = "p2"', 'name = "p2"\nencap = "nvgre"') + BLUE + "vsid = 5001\n"
    other = f.tenant(sport=40002)
    copies = send(config, to_group(), to_group(inner=other), to_group(), in_port="p1").by("p2")
    assert [data[34:41].hex() for data in copies] == ["20006558001389"] * 3
    assert copies[0][41] == copies[2][41] != copies[1][41]
    assert [data[42:] for data in copies] == [TENANT, other, TENANT]
    unnumbered = config.replace("vsid = 5001\n", "")
    assert send(unnumbered, to_group(), in_port="p1").reasons() == {"no_vsid": 1}
    tagged = to_group(inner=f.tenant(tags=[(f.TAG, 7)]))
    assert send(config, tagged, in_port="p1").reasons() == {"tag_in_nvgre": 1}


def test_copies_over_ipv6_always_carry_a_udp_checksum(send: Wire):
    """W4: Linux drops a zero one."""
    six = port("p1", "nve") + port("core", "core", "2001:db8::1/64") + '[device]\naddress = "2001:db8::1"\n'
    six += f'[[device.peer]]\ngroup = "{GROUP}"\naddresses = ["2001:db8::2"]\n'
    (tunnel,) = send(six, to_group(), in_port="p1").by("core")
    assert (Ether(tunnel)[IPv6].dst, Ether(tunnel)[UDP].dport) == ("2001:db8::2", 4754)
    assert Ether(tunnel)[UDP].chksum != 0
    assert checksum(tunnel[22:54] + bytes((0, 17)) + tunnel[58:60] + tunnel[54:]) == 0


def test_a_ttl_of_1_is_no_reason_to_drop_and_copies_that_we_make_have_64(send: Wire):
    """W6: what Linux NVEs send; local copies keep it, and no copy leaves with 0."""
    for came, kept in ((1, 1), (0, 1), (9, 9)):
        result = send(tor("10.0.0.1", "10.0.0.2"), to_group(packet={"ttl": came}), in_port="p1")
        assert {name: data[22] for name, data in result.copies} == {"p2": kept, "core": 64}
