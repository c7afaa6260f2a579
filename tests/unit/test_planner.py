"""Replication lists from members, peers and receivers, and what a whole config becomes."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.config import load, parse
from ctrl.config.schema import Config
from ctrl.planner import (
    Member,
    Receiver,
    Remote,
    Tunnel,
    choose_out_port,
    plan_device_group,
    plan_point_group,
    plan_point_number,
    plan_tunnels,
)
from ctrl.static import plan
from ctrl.ways import ways
from fastpath.model import (
    AllowFrom,
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    GroupMap,
    Layout,
    LocalNve,
    Network,
    Owner,
    Peer,
    Port,
    Scope,
    group_key,
    vni_key,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
GROUP, GROUP6 = IPv4Address("239.1.1.100"), IPv6Address("ff05::100")
A, B, C = (IPv4Address(f"10.0.0.{n}") for n in (1, 2, 3))
NVE = IPv4Address("10.1.1.2")
ENCAPS = (Encap.VXLAN, Encap.NVGRE, Encap.VXLAN)
NESTED = Tunnel(Form.NESTED, A)
mac = bytes.fromhex


def config_of(text: str) -> Config:
    reading = parse(text)
    assert reading.config is not None, reading.findings
    return reading.config


def planned(group, members, peers, tunnel=NESTED):
    """The list of a group of which no member names a source."""
    (made,) = plan_device_group(group, members, plan_tunnels(peers, tunnel), ENCAPS)
    return made


def test_d9_a_group_goes_to_its_members_in_its_own_form_and_through_its_tunnels():
    made = planned(GROUP, [Member(2), Member(1), Member(1, NVE)], [Remote(B, 0), Remote(C, 2)])
    assert made.key == group_key(Scope.DEVICE, GROUP)
    assert made.local == (
        Egress(2, Form.GROUP, Owner(port=2), encap=Encap.VXLAN),
        Egress(1, Form.GROUP, Owner(port=1), encap=Encap.NVGRE),
        Egress(1, Form.REWRITE, Owner(port=1, address=NVE), address=NVE, encap=Encap.NVGRE),
    )
    assert made.remote == (
        Egress(0, Form.NESTED, Owner(address=B), address=B, source=A),
        Egress(2, Form.NESTED, Owner(address=C), address=C, source=A),
    )


def test_a_copy_to_the_group_knows_the_ip_version_of_the_group():
    made = planned(GROUP6, [Member(1)], [])
    assert [egress.version for egress in made.local] == [6]


@pytest.mark.parametrize("source", [A, None])
def test_rewritten_tunnels_carry_our_source_or_keep_the_nves(source):
    made = planned(GROUP, [], [Remote(B, 0)], Tunnel(Form.REWRITE, source))
    assert made.remote == (Egress(0, Form.REWRITE, Owner(address=B), address=B, source=source),)


def test_what_a_member_wants_of_a_source():
    some, but = Member(1, None, False, frozenset({A})), Member(1, None, True, frozenset({A}))
    assert [[one.wants(s) for s in (A, B, None)] for one in (Member(1), some, but)] == [
        [True, True, True],
        [True, False, False],
        [False, True, True],
    ]


def test_d10_either_part_of_a_list_may_be_empty():
    made = planned(GROUP, [], [])
    assert (made.local, made.remote) == ((), ())


@given(
    st.lists(st.tuples(st.integers(1, 2), st.sampled_from([None, NVE, B])), max_size=8),
    st.lists(st.builds(Remote, st.sampled_from([A, B, C]), st.integers(0, 2)), max_size=8),
)
def test_an_owner_stands_in_a_list_once_whatever_comes_in(members, peers):
    made = planned(GROUP, [Member(*one) for one in members], peers)
    owners = [egress.owner for egress in (*made.local, *made.remote)]
    assert len(owners) == len(set(owners))
    assert {o.address for o in owners if o.port is None} == {p.address for p in peers}
    assert {(o.port, o.address) for o in owners if o.port is not None} == set(members)


def test_r3_a_point_sends_nested_copies_from_its_own_address_to_all_devices():
    made = plan_point_group(GROUP, [Remote(B, 0), Remote(C, 1)], A)
    assert made.key == group_key(Scope.REPLICATOR, GROUP)
    assert made.local == ()
    assert made.remote == (
        Egress(0, Form.NESTED, Owner(address=B), address=B, source=A),
        Egress(1, Form.NESTED, Owner(address=C), address=C, source=A),
    )


def test_w7_a_list_by_number_rewrites_as_it_came_where_all_speak_the_same():
    receivers = [Receiver(B, 0, Encap.VXLAN, 100), Receiver(C, 1, Encap.VXLAN, 100, A)]
    (made,) = plan_point_number(Encap.VXLAN, 100, receivers)
    assert made.key == vni_key(Scope.REPLICATOR, Encap.VXLAN, 100)
    assert made.remote == (
        Egress(0, Form.REWRITE, Owner(address=B), address=B),
        Egress(1, Form.REWRITE, Owner(address=C), address=C, source=A),
    )


def test_a_list_by_number_stands_under_every_number_its_receivers_send_with():
    receivers = [
        Receiver(B, 0, Encap.VXLAN, 100),
        Receiver(C, 1, Encap.NVGRE, 5000),
        Receiver(A, 2, Encap.VXLAN, 7),
    ]
    made = plan_point_number(Encap.VXLAN, 100, receivers)
    assert [one.key for one in made] == [
        vni_key(Scope.REPLICATOR, Encap.VXLAN, 100),
        vni_key(Scope.REPLICATOR, Encap.NVGRE, 5000),
        vni_key(Scope.REPLICATOR, Encap.VXLAN, 7),
    ]
    assert {one.remote for one in made} == {
        (
            Egress(0, Form.REWRITE, Owner(address=B), address=B, encap=Encap.VXLAN, vni=100),
            Egress(1, Form.REWRITE, Owner(address=C), address=C, encap=Encap.NVGRE, vni=5000),
            Egress(2, Form.REWRITE, Owner(address=A), address=A, encap=Encap.VXLAN, vni=7),
        )
    }


def test_the_networks_own_number_has_the_list_too_and_one_number_in_two_encapsulations_is_told_apart():
    made = plan_point_number(Encap.VXLAN, 5000, [Receiver(B, 0, Encap.NVGRE, 5000)])
    assert [(one.key.encap, one.key.vni) for one in made] == [(Encap.VXLAN, 5000), (Encap.NVGRE, 5000)]
    assert made[0].remote[0].encap is Encap.NVGRE
    assert made[0].remote[0].vni == 5000


def test_a_peer_is_reached_by_the_longest_prefix_then_the_first_port_then_the_first_core_port():
    prefixes = [
        (3, ip_network("10.0.0.0/16")),
        (5, ip_network("10.0.1.0/24")),
        (2, ip_network("10.0.0.0/16")),
    ]
    assert choose_out_port(ip_address("10.0.1.1"), prefixes, [1]) == 5
    assert choose_out_port(ip_address("10.0.2.1"), prefixes, [1]) == 2
    assert choose_out_port(ip_address("10.1.0.1"), prefixes, [4, 1]) == 4
    assert choose_out_port(ip_address("2001:db8::1"), prefixes, []) is None


DEVICE = """
[dataplane]
vxlan_ports = [8472, 4789]
verify_checksums = false
strict_reserved = true
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
address = "10.0.9.1/24"
[[port]]
name = "p1"
faces = "nve"
encap = "nvgre"
mtu = 1500
[[port]]
name = "core"
faces = ["nve", "core"]
mac = "02:00:00:00:00:0a"
next_hop_mac = "02:00:00:00:00:0b"
[[port]]
name = "core2"
faces = "core"
address = ["10.0.8.1/24", "2001:db8::1/64"]
[nve]
address = "10.0.0.9"
send_to = "10.0.8.9"
allow_from = ["10.8.0.0/16"]
[device]
address = "10.0.0.1"
strict_members = true
allow_from = ["10.9.0.0/16"]
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.2", "10.0.8.2", "10.0.9.2"]
[[device.member]]
group = "239.1.1.1"
port = "p1"
[[device.member]]
group = "239.1.1.2"
port = "p1"
nve = "10.1.1.2"
[[device.member]]
group = "239.1.1.1"
port = "p1"
nve = "10.1.1.2"
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.3"]
[[network]]
name = "blue"
vni = 100
vsid = 5000
group = "239.1.1.1"
clear_reserved = true
[[network.map]]
inner = "239.0.0.0/8"
group = "239.1.1.2"
[[network]]
name = "red"
vni = 4096
encap = "nvgre"
[[network]]
name = "green"
vni = 16777215
"""


def test_a_device_config_becomes_its_layout():
    assert plan(config_of(DEVICE)).layout == Layout(
        ports=(
            Port("vm1", Faces.VM, mac("02fa57000001"), mac("02fa57ff0001"), network="blue"),
            Port("p1", Faces.NVE, mac("02fa57000002"), mac("02fa57ff0002"), Encap.NVGRE, 1500),
            Port("core", Faces.NVE | Faces.CORE, mac("02000000000a"), mac("02000000000b")),
            Port("core2", Faces.CORE, mac("02fa57000004"), mac("02fa57ff0004")),
        ),
        endpoints=(Endpoint(IPv4Address("10.0.0.9"), Scope.NVE), Endpoint(A, Scope.DEVICE)),
        networks=(
            Network("blue", 100, 5000, group=IPv4Address("239.1.1.1"), clear_reserved=True,
                    maps=(GroupMap(ip_network("239.0.0.0/8"), IPv4Address("239.1.1.2")),)),
            Network("red", 4096, 4096, Encap.NVGRE),
            Network("green", 16777215, None),
        ),
        peers=(
            Peer(Scope.NVE, IPv4Address("10.0.8.9")),
            *(Peer(Scope.DEVICE, IPv4Address(f"10.0.{a}")) for a in ("0.2", "8.2", "9.2", "0.3")),
        ),
        nves=(LocalNve(1, NVE),),
        allow_from=(
            AllowFrom(Scope.NVE, ip_network("10.8.0.0/16")),
            AllowFrom(Scope.DEVICE, ip_network("10.9.0.0/16")),
        ),
        vxlan_ports=(8472, 4789),
        verify_checksums=False,
        strict_reserved=True,
        strict_members=True,
    )  # fmt: skip


def test_a_device_config_becomes_one_list_per_group_whatever_its_tables():
    first, second = (one for one in plan(config_of(DEVICE)).lists if one.key.scope is Scope.DEVICE)
    assert first.key == group_key(Scope.DEVICE, IPv4Address("239.1.1.1"))
    assert [(e.form, e.owner) for e in first.local] == [(Form.GROUP, Owner(1)), (Form.REWRITE, Owner(1, NVE))]
    # By prefix, else by the first port that faces the core; ports of VMs reach nobody.
    assert [(e.out_port, str(e.address)) for e in first.remote] == [
        (2, "10.0.0.2"), (3, "10.0.8.2"), (2, "10.0.9.2"), (2, "10.0.0.3"),
    ]  # fmt: skip
    assert {(e.form, e.source) for e in first.remote} == {(Form.NESTED, A)}
    assert second.key == group_key(Scope.DEVICE, IPv4Address("239.1.1.2"))
    assert [e.owner for e in second.local] == [Owner(1, NVE)]
    assert second.remote == ()


@pytest.mark.parametrize(("source", "carried"), [("own", A), ("keep", None)])
def test_a_rewriting_device_keeps_or_replaces_the_source(source, carried):
    text = DEVICE.replace("[device]", f'[device]\ntunnel = "rewrite"\nsource = "{source}"')
    first = plan(config_of(text)).lists[0]
    assert {(e.form, e.source, e.encap) for e in first.remote} == {(Form.REWRITE, carried, None)}


POINT = """
[[port]]
name = "core"
faces = "core"
[replicator]
address = "10.0.0.110"
vnis = [300, "100-199"]
allow_from = ["10.9.0.1"]
[[replicator.list]]
group = "239.1.1.100"
addresses = ["10.0.0.2", "10.0.0.3"]
[[replicator.list]]
vni = 100
source = "own"
addresses = ["10.0.0.3", { address = "10.0.0.4", encap = "nvgre", source = "keep" }]
[[network]]
name = "blue"
vni = 100
vsid = 5000
"""


def test_a_point_config_becomes_its_layout_and_lists():
    made = plan(config_of(POINT.replace("vnis = [300", "vnis = [5000, 300")))
    point = IPv4Address("10.0.0.110")
    assert made.layout.endpoints == (Endpoint(point, Scope.REPLICATOR, replicate=True),)
    assert [str(p.address) for p in made.layout.peers] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert {p.scope for p in made.layout.peers} == {Scope.REPLICATOR}
    assert made.layout.allow_from == (AllowFrom(Scope.REPLICATOR, ip_network("10.9.0.1/32")),)
    assert made.layout.point_vnis == ((100, 199), (300, 300), (5000, 5000))
    by_group, vxlan, nvgre = made.lists
    assert by_group.key == group_key(Scope.REPLICATOR, GROUP)
    assert {(e.form, e.source) for e in by_group.remote} == {(Form.NESTED, point)}
    assert vxlan.key == vni_key(Scope.REPLICATOR, Encap.VXLAN, 100)
    assert nvgre.key == vni_key(Scope.REPLICATOR, Encap.NVGRE, 5000)  # the network's number there
    assert vxlan.remote == nvgre.remote
    assert [(e.source, e.encap, e.vni) for e in vxlan.remote] == [
        (point, Encap.VXLAN, 100),
        (None, Encap.NVGRE, 5000),
    ]


def test_the_address_that_replicates_is_told_from_the_one_that_does_not():
    own = POINT.replace('"10.0.0.110"', '"10.0.0.110"\nreplicate = "10.0.0.111"')
    assert plan(config_of(own)).layout.endpoints == (
        Endpoint(IPv4Address("10.0.0.110"), Scope.REPLICATOR),
        Endpoint(IPv4Address("10.0.0.111"), Scope.REPLICATOR, replicate=True),
    )
    shared = own + '[device]\naddress = "10.0.0.110"\n'
    assert plan(config_of(shared)).layout.endpoints == (
        Endpoint(IPv4Address("10.0.0.110"), Scope.DEVICE),
        Endpoint(IPv4Address("10.0.0.111"), Scope.REPLICATOR, replicate=True),
    )


@pytest.mark.parametrize("name", ["device", "point", "vtep-point"])
def test_the_examples_become_lists(name):
    made = plan(load(EXAMPLES / f"{name}.toml"))
    assert made.lists
    assert all(one.local or one.remote for one in made.lists)


def test_an_address_that_no_port_reaches_is_a_misuse():
    with pytest.raises(ValueError, match="check the config first"):
        ways(config_of("[manager]")).remote(B)
