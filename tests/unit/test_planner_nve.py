"""What the lists of an NVE are: who gets what its VMs send, and what comes in."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from ctrl.config import Config, check, load, parse
from ctrl.planner import Overlay, Receivers, Remote, overlay_egresses, plan_nve_network
from ctrl.static import basis, needs, plan, plan_ports, tunnelled
from ctrl.ways import uplink, vm_ports, ways
from fastpath.model import (
    AllowFrom,
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    GroupKey,
    GroupMap,
    KeyKind,
    Network,
    Owner,
    Peer,
    Rate,
    ReplicationList,
    Scope,
    Storm,
    vni_key,
)

EXAMPLES = Path(__file__).parents[2] / "examples" / "nve"
OURS = IPv4Address("10.1.1.2")
GROUP, OTHER = IPv4Address("239.1.1.1"), IPv4Address("239.1.1.2")
UP = 4
TO_GROUP = Overlay(OURS, UP)
BLUE = Network("blue", 5001, 6001, group=GROUP)


def to_vm(place: int) -> Egress:
    return Egress(place, Form.DECAPSULATED, Owner(port=place))


def sent(address: str, encap: Encap, out_port: int = UP) -> Egress:
    to = ip_address(address)
    return Egress(out_port, Form.REWRITE, Owner(address=to), to, OURS, encap)


def config_of(text: str) -> Config:
    reading = parse(text)
    assert reading.config is not None, reading.findings
    return reading.config


@pytest.mark.parametrize("encap", [Encap.VXLAN, Encap.NVGRE])
def test_what_a_vm_sends_leaves_in_one_copy_to_the_group_whatever_its_vms_here_and_there(encap):
    """CONFORMANCE N1, N2: in the network's own encapsulation; under both numbers, as VTEPs speak either."""
    network = Network("blue", 5001, 6001, encap, GROUP)
    local, remote = (to_vm(1), to_vm(3)), (sent("239.1.1.1", encap),)
    assert plan_nve_network(network, [1, 3], TO_GROUP) == (
        ReplicationList(vni_key(Scope.NVE, Encap.VXLAN, 5001), local, remote),
        ReplicationList(vni_key(Scope.NVE, Encap.NVGRE, 6001), local, remote),
    )


def test_a_network_without_a_vsid_has_no_list_for_nvgre():
    (one,) = plan_nve_network(Network("blue", 5, None, group=GROUP), [0], TO_GROUP)
    assert one.key == vni_key(Scope.NVE, Encap.VXLAN, 5)


def test_a_service_node_or_each_vtep_gets_a_copy_in_the_place_of_the_group():
    """The group is not among the receivers even if the network has one."""
    remotes = (Remote(IPv4Address("10.0.0.9"), 2), Remote(IPv4Address("10.0.0.8"), UP))
    network = Network("blue", 5001, 6001, group=GROUP, maps=(GroupMap(ip_network("239.0.0.0/8"), OTHER),))
    one, other = plan_nve_network(network, [1], Overlay(OURS, UP, remotes))
    assert one.remote == (sent("10.0.0.9", Encap.VXLAN, 2), sent("10.0.0.8", Encap.VXLAN))
    assert (other.local, other.remote) == (one.local, one.remote) == ((to_vm(1),), one.remote)


def test_whom_a_manager_told_of_a_group_gets_a_copy_in_its_place_and_nobody_else():
    """Framework 3.2; N9: each of a network's groups has receivers of its own, or none."""
    network = replace(BLUE, maps=(GroupMap(ip_network("239.0.0.0/8"), OTHER),))
    receivers = Receivers((IPv4Address("10.0.0.8"), IPv4Address("10.0.0.9")))
    ports = dict.fromkeys(receivers.addresses, 2)
    copies = receivers.egresses(network, TO_GROUP, ports.__getitem__)
    assert copies == (sent("10.0.0.8", Encap.VXLAN, 2), sent("10.0.0.9", Encap.VXLAN, 2))
    overlay = Overlay(OURS, UP, told={GROUP: copies, IPv4Address("239.9.9.9"): copies[1:]})
    vxlan, nvgre, mapped = plan_nve_network(network, [1], overlay)
    assert vxlan.remote is copies
    assert (nvgre.remote, mapped.remote) == (vxlan.remote, ())
    assert vxlan.local == mapped.local == (to_vm(1),)
    (alone, *_) = plan_nve_network(BLUE, [1], Overlay(OURS, UP, told={}))
    assert (alone.local, alone.remote) == ((to_vm(1),), ())


def test_copies_to_told_receivers_are_planned_once_for_each_encapsulation_and_way():
    far = IPv4Address("10.0.0.8")
    receivers = Receivers((far,))
    nvgre = replace(BLUE, encap=Encap.NVGRE)

    def made_by(port):
        return [receivers.egresses(one, TO_GROUP, lambda _: port) for one in (BLUE, nvgre, BLUE)]

    by_two, by_four = made_by(2), made_by(4)
    for made, port in ((by_two, 2), (by_four, 4)):
        assert made[0] is made[2]
        assert made[0] == (sent("10.0.0.8", Encap.VXLAN, port),)
        assert made[1] == (sent("10.0.0.8", Encap.NVGRE, port),)


def test_who_gets_a_copy_besides_gets_one_even_if_all_frames_go_there():
    """N12."""
    service, other = (Remote(IPv4Address(address), 2) for address in ("10.0.0.9", "10.0.0.8"))
    both = overlay_egresses(BLUE, TO_GROUP, GROUP, [service])
    assert both == (sent("239.1.1.1", Encap.VXLAN), sent("10.0.0.9", Encap.VXLAN, 2))
    assert len(overlay_egresses(BLUE, Overlay(OURS, UP, (service, other)), GROUP, [service])) == 2


def test_frames_that_a_network_maps_to_another_group_have_a_list_of_that_group():
    """CONFORMANCE N9, third form: by the number that VMs' own frames are of."""
    maps = (GroupMap(ip_network("239.5.0.0/16"), OTHER), GroupMap(ip_network("239.6.0.0/16"), OTHER))
    network = Network("blue", 5001, 6001, Encap.NVGRE, GROUP, maps)
    *_, mapped = plan_nve_network(network, [1], TO_GROUP)
    key = GroupKey(Scope.NVE, KeyKind.GROUP, OTHER, None, Encap.NVGRE, 6001)
    assert mapped == ReplicationList(key, (to_vm(1),), (sent("239.1.1.2", Encap.NVGRE),))


def test_networks_that_share_a_group_have_lists_of_their_own():
    """CONFORMANCE N9, second form."""
    blue, red = (plan_nve_network(Network(n, v, None, group=GROUP), [p], TO_GROUP)[0]
                 for n, v, p in (("blue", 5, 1), ("red", 6, 2)))  # fmt: skip
    assert blue.remote == red.remote
    assert (blue.local, red.local) == ((to_vm(1),), (to_vm(2),))
    assert blue.key != red.key


HOST = """
[nve]
address = "10.1.1.2"
[[network]]
name = "blue"
vni = 5001
group = "239.1.1.1"
[[network]]
name = "red"
vni = 100
vsid = 6001
encap = "nvgre"
group = "239.1.1.2"
[[network]]
name = "of-others"
vni = 7
group = "239.1.1.3"
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
macs = ["02:00:00:00:00:01"]
tagged = "drop"
[port.storm]
broadcast_pps = 10
multicast_pps = 20000
[[port]]
name = "up"
faces = "core"
[[port]]
name = "vm2"
faces = "vm"
network = "red"
[[port]]
name = "vm3"
faces = "vm"
network = "blue"
[[port]]
name = "up2"
faces = "core"
address = "10.1.0.1/16"
"""


def test_a_host_s_config_becomes_an_endpoint_and_the_lists_of_the_networks_that_its_vms_are_in():
    made = plan(config_of(HOST))
    assert made.layout.endpoints == (Endpoint(OURS, Scope.NVE),)
    assert [(one.key.encap, one.key.vni, [e.out_port for e in one.local]) for one in made.lists] == [
        (Encap.VXLAN, 5001, [0, 3]),
        (Encap.NVGRE, 5001, [0, 3]),
        (Encap.VXLAN, 100, [2]),
        (Encap.NVGRE, 6001, [2]),
    ]
    assert made.lists[3].remote == (sent("239.1.1.2", Encap.NVGRE),)  # by up2, whose prefix holds our address


def test_guards_and_storm_control_of_a_vm_port_are_those_of_the_config():
    first, _, second, *_ = plan_ports(config_of(HOST).ports)
    assert (first.macs, first.drop_tagged) == ((bytes.fromhex("020000000001"),), True)
    assert first.storm == Storm(broadcast=Rate(10, 64), multicast=Rate(20_000, 20_000))
    assert (second.macs, second.drop_tagged, second.storm) == ((), False, None)


INTERNAL = """
[[port]]
name = "in"
kind = "internal"
peer = "tor"
faces = "core"
[[port]]
name = "tor"
kind = "internal"
peer = "in"
faces = "nve"
"""


def test_the_uplink_is_the_core_port_whose_prefix_holds_the_nve_else_the_first_but_internal_first_of_all():
    assert uplink(config_of(HOST)) == 4
    assert uplink(config_of(HOST.replace("10.1.0.1/16", "10.2.0.1/16"))) == 1
    assert uplink(config_of(HOST + INTERNAL)) == 5
    assert uplink(config_of(f"{INTERNAL}[manager]\n")) is None


def test_in_a_box_with_a_device_only_what_comes_by_the_uplink_is_the_nve_s():
    """CONFORMANCE N11."""
    alone = config_of(HOST)
    assert {port.group_scope for port in plan(alone).layout.ports} == {None}
    both = config_of(HOST + '[device]\naddress = "10.3.0.1"\n' + INTERNAL)
    scopes = {port.name: port.group_scope for port in plan(both).layout.ports if port.faces == Faces.CORE}
    by = uplink(both)
    assert by is not None
    assert both.ports[by].kind == "internal"
    assert scopes.pop(both.ports[by].name) is None
    assert set(scopes.values()) == {Scope.DEVICE}


def test_no_peer_is_reached_by_an_internal_port():
    """CONFORMANCE N11: in one box the device's tunnels leave by the port behind which its peers are."""
    text = """
[nve]
address = "10.1.1.2"
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.2"]
[[port]]
name = "in"
kind = "internal"
peer = "tor"
faces = "core"
address = "10.0.0.0/8"
[[port]]
name = "tor"
kind = "internal"
peer = "in"
faces = "nve"
[[port]]
name = "core"
faces = "core"
"""
    (of_device,) = plan(config_of(text)).lists
    assert [egress.out_port for egress in of_device.remote] == [2]


def test_a_service_node_that_no_port_reaches_is_sent_to_by_the_uplink_and_the_group_is_not():
    text = HOST.replace('"10.1.1.2"\n', '"10.1.1.2"\nsend_to = "10.9.0.1"\n', 1)
    only_internal = text.replace('faces = "core"', 'faces = "nve"') + INTERNAL
    by = uplink(config_of(only_internal))
    assert by == 5
    assert {one.remote for one in plan(config_of(only_internal)).lists} == {
        (sent("10.9.0.1", Encap.VXLAN, by),),
        (sent("10.9.0.1", Encap.NVGRE, by),),
    }


def test_vteps_that_the_config_names_may_send_to_the_nve():
    text = HOST.replace('address = "10.1.1.2"\n', """address = "10.1.1.2"
send_to = ["10.9.0.1", "10.9.0.2"]
allow_from = ["10.8.0.0/16"]
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:09"
vtep = "10.9.0.3"
""", 1)  # fmt: skip
    layout = plan(config_of(text)).layout
    assert layout.peers == tuple(Peer(Scope.NVE, IPv4Address(f"10.9.0.{n}")) for n in (1, 2, 3))
    assert layout.allow_from == (AllowFrom(Scope.NVE, ip_network("10.8.0.0/16")),)
    assert needs(config_of(text), layout.ports) == {}


def test_the_nve_needs_the_groups_of_networks_with_a_vm_port_that_is_up():
    """CONFORMANCE N3-N5; the port by which it is in them is the uplink."""
    config = config_of(HOST)
    ports = plan_ports(config.ports)
    assert vm_ports(config) == {"blue": (0, 3), "red": (2,)}
    assert needs(config, ports) == {"blue": frozenset({(4, GROUP)}), "red": frozenset({(4, OTHER)})}
    down = tuple(replace(port, is_up=place not in {0, 2}) for place, port in enumerate(ports))
    assert needs(config, down) == {"blue": frozenset({(4, GROUP)})}


def test_an_nve_with_managers_is_in_groups_by_their_books_and_joins_none():
    """CONFORMANCE N3-N5, framework 3.2."""
    config = config_of(HOST.replace('"10.1.1.2"', '"10.1.1.2"\nmanager = ["127.0.0.1:9470"]', 1))
    ports = plan_ports(config.ports)
    assert needs(config, ports) == {}
    assert tunnelled(config, ports) == {GROUP, OTHER}
    down = tuple(replace(port, is_up=place not in {0, 2}) for place, port in enumerate(ports))
    assert tunnelled(config, down) == {GROUP}
    assert tunnelled(config_of(HOST), ports) == frozenset()


def test_what_a_manager_says_of_one_network_is_no_news_of_another():
    text = HOST.replace('"10.1.1.2"', '"10.1.1.2"\nmanager = ["127.0.0.1:9470"]', 1)
    config = config_of(text.replace("vni = 5001", "vni = 5001\nsnoop = true"))
    ports, found, peer = plan_ports(config.ports), ways(config), IPv4Address("10.1.0.7")
    before = basis(config, ports, found, {GROUP: Receivers((peer,))})
    of_other = basis(config, ports, found, {GROUP: Receivers((peer,)), OTHER: Receivers((peer,))})
    assert before.snooped == of_other.snooped != basis(config, ports, found).snooped
    by_number = {one.key: [e.address for e in one.remote] for one in of_other.overlay}
    assert set(map(tuple, by_number.values())) == {(peer,)}


def test_a_network_whose_igmp_goes_to_service_nodes_has_it_told_to_control_which_does_not_read_it():
    """N12."""
    config = config_of(HOST.replace("vni = 5001", 'vni = 5001\nigmp_to = ["10.1.0.9"]'))
    found = basis(config, plan_ports(config.ports), ways(config))
    assert [(one.name, one.snoop) for one in found.networks[:2]] == [("blue", True), ("red", False)]
    (blue,) = found.agnostic
    assert (blue.network.name, blue.vm_ports) == ("blue", frozenset({0, 3}))
    assert blue.services == (Remote(IPv4Address("10.1.0.9"), 4),)
    assert found.snooped == ()
    assert Peer(Scope.NVE, IPv4Address("10.1.0.9")) in plan(config).layout.peers


def test_an_ipv6_nve_sends_to_ipv6_groups():
    group = IPv6Address("ff05::1")
    ours = IPv6Address("2001:db8::2")
    (one,) = plan_nve_network(Network("blue", 5, None, group=group), [0], Overlay(ours, 1))
    assert one.remote == (Egress(1, Form.REWRITE, Owner(address=group), group, ours, Encap.VXLAN),)


@pytest.mark.parametrize(
    ("name", "n_lists", "roles"), [("nve", 4, "nve"), ("nvgre", 2, "nve"), ("onebox", 3, "nve device")]
)
def test_the_examples_are_good_and_become_lists(name, n_lists, roles):
    file = EXAMPLES / f"{name}.toml"
    assert check(file) == []
    config = load(file)
    assert config.roles == tuple(roles.split())
    assert len(plan(config).lists) == n_lists
