"""From what VMs want to the lists of their NVE (N13): what changed is planned, and who joined is served."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ctrl.membership import ALL, Membership, Wants
from ctrl.planner import SOURCES_MAX, Member, Overlay, Remote, Snooped, plan_nve_group, plan_nve_network
from ctrl.publisher import Basis, Publisher, Step
from ctrl.roles.tenants import OVERLAY
from ctrl.tenant_lists import TenantLists
from ctrl.tenants_told import Audience, TenantsTold, Told
from fastpath.model import ANY_GROUP, Egress, Encap, Form, GroupMap, Network, Owner, Scope, vni_key

OURS, OUTER, OTHER = ip_address("10.1.1.2"), ip_address("239.1.1.1"), ip_address("239.1.1.2")
G, H, G6 = ip_address("239.10.10.10"), ip_address("239.10.10.11"), ip_address("ff05::100")
S1, S2 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
UP = 9
BLUE = Network("blue", 5001, 6001, group=OUTER, snoop=True)
RED = Network("red", 5002, None, group=OUTER, snoop=True)


def snooped(network, *ports, receivers=()):
    return Snooped(network, frozenset(ports), Overlay(OURS, UP, receivers))


def to_vm(place):
    return Egress(place, Form.DECAPSULATED, Owner(port=place))


def key(number, group=None, source=None, encap=Encap.VXLAN):
    return vni_key(Scope.NVE, encap, number, group, source)


def only(*sources):
    return Wants(False, frozenset(sources))


def but(*sources):
    return Wants(True, frozenset(sources))


class Heard:
    """What tenants want, by network and group; `want` is news."""

    def __init__(self):
        self.wanted, self.asked, self.changed, self.planned = {}, {}, [], []

    def want(self, network, group, **ports):
        """Who wants it from now on: p1=ALL."""
        self.wanted.setdefault(network, {})[group] = {int(p[1:]): wants for p, wants in ports.items()}
        if not ports:
            del self.wanted[network][group]
        self.changed.append((network, group))

    def ask(self, network, *places):
        self.asked[network] = frozenset(places)
        self.changed.append((network, None))

    def take_changed(self):
        changed, self.changed = self.changed, []
        return changed

    def groups(self, network):
        return list(self.wanted.get(network, ()))

    def listeners(self, network, group):
        self.planned.append((network, group))
        return self.wanted.get(network, {}).get(group, {})

    def takers(self, network):
        return self.asked.get(network, frozenset())


class Box:
    """An NVE with VM ports 1 to 3 in blue and 4 in red, and its lists."""

    def __init__(self):
        self.heard = Heard()
        self.told = TenantsTold()
        self.publisher = Publisher(Membership(), self.basis(), TenantLists(self.heard, self.told))

    @staticmethod
    def basis(blue=(1, 2, 3), red=(4,), receivers=()):
        both = [snooped(BLUE, *blue, receivers=receivers), snooped(RED, *red, receivers=receivers)]
        by_number = (plan_nve_network(one.network, sorted(one.vm_ports), one.overlay) for one in both)
        return Basis(snooped=tuple(both), overlay=tuple(one for several in by_number for one in several))

    def remote(self, group):
        self.publisher.update()
        found = self.publisher.lists.get(key(5001, group))
        return None if found is None else {egress.address for egress in found.remote}

    def ports(self, number, group, source=None, encap=Encap.VXLAN):
        found = self.publisher.lists.get(key(number, group, source, encap))
        return None if found is None else {egress.out_port for egress in found.local}


@pytest.fixture
def box():
    return Box()


def test_a_tenant_group_goes_to_its_members_here_and_into_the_overlay_as_all_of_its_network_does(box):
    """N13, N2: under both numbers of the network."""
    box.heard.want("blue", G, p1=ALL, p3=ALL)
    step = box.publisher.update()
    assert [one.key for one in step.lists] == [key(5001, G), key(6001, G, encap=Encap.NVGRE)]
    by_number = box.publisher.lists[key(5001)]
    for one in step.lists:
        assert one.local == (to_vm(1), to_vm(3))
        assert one.remote == by_number.remote
    assert step.removed == []
    assert box.publisher.update() == Step([], [])


def test_who_joins_and_leaves_plans_that_group_of_that_network_and_no_other(box):
    """N13."""
    box.heard.want("blue", G, p1=ALL)
    box.heard.want("blue", G6, p1=ALL)
    box.heard.want("red", G, p4=ALL)
    box.publisher.update()
    box.heard.planned.clear()
    box.heard.want("blue", G, p1=ALL, p2=ALL)
    step = box.publisher.update()
    assert {one.key for one in step.lists} == {key(5001, G), key(6001, G, encap=Encap.NVGRE)}
    assert box.heard.planned == [("blue", G)]
    box.heard.want("blue", G)
    step = box.publisher.update()
    assert (step.lists, set(step.removed)) == ([], {key(5001, G), key(6001, G, encap=Encap.NVGRE)})
    assert box.ports(5001, G) is None, "unregistered: its frames are those of the network"
    assert (box.ports(5002, G), box.ports(5001, G6)) == ({4}, {1})


@pytest.mark.parametrize(
    ("wants", "served"),
    [
        ({"p1": only(S1), "p2": ALL}, {None: {2}, S1: {1, 2}, S2: {2}}),
        ({"p1": but(S1), "p2": only(S2)}, {None: {1}, S1: set(), S2: {1, 2}}),
        ({"p1": only(S1)}, {None: set(), S1: {1}}),
    ],
)
def test_a_source_that_a_vm_names_has_a_list_of_those_who_want_it(box, wants, served):
    """N13: a source that nobody here wants has one, too, or its frames would be the group's."""
    box.heard.want("blue", G, **wants)
    box.publisher.update()
    named = {source for one in wants.values() for source in one.sources}
    for source, ports in served.items():
        assert box.ports(5001, G, source) == (ports if source is None or source in named else None)
    box.heard.want("blue", G, p3=ALL)
    box.publisher.update()
    assert [one for one in box.publisher.lists if one.group == G] == [
        key(5001, G),
        key(6001, G, encap=Encap.NVGRE),
    ]


def test_a_port_that_names_too_many_sources_gets_all(box):
    many = [ip_address(0xC0000200 + n) for n in range(SOURCES_MAX + 1)]
    box.heard.want("blue", G, p1=only(*many), p2=only(*many[:-1]))
    box.publisher.update()
    assert sum(one.group == G for one in box.publisher.lists) == 2 * (1 + SOURCES_MAX)
    assert box.ports(5001, G) == {1}


def test_a_multicast_router_gets_every_group_that_anybody_joined(box):
    """RFC 4541 section 2.1.1. The overlay gets all of it anyway."""
    box.heard.want("blue", G, p1=ALL)
    box.heard.want("blue", H, p2=only(S1))
    box.heard.want("red", G, p4=ALL)
    box.publisher.update()
    box.heard.planned.clear()
    box.heard.ask("blue", 3, OVERLAY)
    box.publisher.update()
    assert (box.ports(5001, G), box.ports(5001, H), box.ports(5001, H, S1)) == ({1, 3}, {3}, {2, 3})
    assert {network for network, _ in box.heard.planned} == {"blue"}
    box.heard.ask("blue")
    box.publisher.update()
    assert (box.ports(5001, G), box.ports(5001, H)) == ({1}, set())


def test_a_vm_port_that_goes_is_in_no_list_of_its_network_even_before_its_members_are_gone(box):
    box.heard.want("blue", G, p1=ALL, p2=ALL)
    box.heard.want("red", G, p4=ALL)
    box.publisher.update()
    box.heard.planned.clear()
    step = box.publisher.reroute(box.basis(blue=(2, 3)))
    assert box.ports(5001, G) == {2}
    assert {one.key for one in step.lists if one.key.group} == {key(5001, G), key(6001, G, encap=Encap.NVGRE)}
    assert box.heard.planned == [("blue", G)]
    box.publisher.reroute(box.basis(blue=(3,)))
    assert box.ports(5001, G) is None
    box.publisher.reroute(box.basis())
    assert box.ports(5001, G) == {1, 2}


def test_who_sends_elsewhere_from_now_on_does_so_with_tenant_groups_as_well(box):
    box.heard.want("blue", G, p1=ALL)
    box.publisher.update()
    node = ip_address("10.1.1.9")
    step = box.publisher.reroute(box.basis(receivers=(Remote(node, 8),)))
    found = next(one for one in step.lists if one.key == key(5001, G))
    assert [(one.address, one.out_port) for one in found.remote] == [(node, 8)]


def test_a_new_basis_has_all_groups_and_a_network_that_snoops_no_more_none(box):
    box.heard.want("blue", G, p1=ALL)
    box.heard.want("red", G, p4=ALL)
    box.publisher.update()
    other = replace(BLUE, vni=5003)
    step = box.publisher.rebase(Basis(snooped=(snooped(other, 1, 2),), networks=(other,)))
    assert {one.key for one in step.lists} == {key(5003, G), key(6001, G, encap=Encap.NVGRE)}
    assert {key(5001, G), key(5002, G)} <= set(step.removed)
    box.publisher.rebase(box.basis())
    assert box.ports(5001, G) == {1}
    assert box.ports(5003, G) is None
    assert not any(one.key.group for one in box.publisher.rebase(box.basis()).lists)
    assert box.ports(5002, G) == {4}


def test_networks_that_change_numbers_keep_their_lists(box):
    box.heard.want("blue", G, p1=ALL)
    box.heard.want("red", G, p4=ALL)
    box.publisher.update()
    step = box.publisher.reroute(
        Basis(snooped=(snooped(replace(BLUE, vni=5002), 1), snooped(replace(RED, vni=5001), 4)))
    )
    assert (box.ports(5002, G), box.ports(5001, G)) == ({1}, {4})
    assert key(5001, G) not in step.removed


def test_frames_of_a_group_that_is_mapped_leave_to_that_outer_group():
    """N9, third form, with N13: by the longest prefix."""
    maps = (GroupMap(ip_network("239.0.0.0/8"), OUTER), GroupMap(ip_network("239.10.0.0/16"), OTHER))
    mapped = replace(BLUE, maps=maps)
    for group, outer in ((G, OTHER), (ip_address("239.1.2.3"), OUTER), (ip_address("232.1.1.1"), OUTER)):
        one, *_ = plan_nve_group(snooped(mapped, 1), group, [Member(1)], ())
        assert [egress.address for egress in one.remote] == [outer]


def test_f32_a_receiver_that_a_manager_says_does_not_want_it_gets_no_copy(box):
    """Framework 3.2: the list is of those who want it, of who says nothing, and of who wants all."""
    near, far, mute = (ip_address(f"10.1.1.{n}") for n in (3, 4, 5))
    receivers = tuple(Remote(address, UP) for address in (near, far, mute))
    box.publisher.reroute(box.basis(receivers=receivers))
    blue = Audience(OUTER, 5001)
    box.told.instruct_aware(blue, Told(frozenset({near, far})))
    box.told.instruct(blue, G, Told(frozenset({near})))
    assert box.remote(G) == {near, mute}
    assert box.ports(5001, G) == set(), "nobody here: what a VM sends is for others alone"
    box.told.instruct_any(blue, Told(frozenset({far})))
    assert box.remote(G) == {near, far, mute}
    box.told.instruct(blue, G, None)
    assert box.remote(G) is None


def test_what_nobody_joined_goes_to_multicast_routers_where_the_network_drops_it(box):
    """RFC 4541 section 2.1.2."""
    dropping = replace(BLUE, drop_unregistered=True)
    basis = replace(box.basis(), snooped=(snooped(dropping, 1, 2),))
    box.publisher.reroute(basis)
    assert box.ports(5001, ANY_GROUP) is None
    box.heard.ask("blue", 2, OVERLAY)
    box.publisher.update()
    assert box.ports(5001, ANY_GROUP) == {2}
    box.heard.ask("blue", OVERLAY)
    box.publisher.update()
    assert box.ports(5001, ANY_GROUP) is None
