"""From members to lists: only what changed is planned, only differences are published, sources have lists."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.membership import ALL, Membership, Origin, Wants, Who
from ctrl.planner import SOURCES_MAX, Overlay, Remote, Tunnel, plan_nve_network
from ctrl.publisher import Basis, Publisher, Step
from fastpath.model import Encap, Form, Network, Owner, Scope, group_key, vni_key

G, H = ip_address("239.1.1.100"), ip_address("239.1.1.101")
PEER = ip_address("10.0.0.2")
S1, S2 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
BASIS = Basis(
    encaps=(Encap.VXLAN, Encap.VXLAN, Encap.NVGRE),
    tunnel=Tunnel(Form.NESTED, ip_address("10.0.0.1")),
    peers={G: [Remote(PEER, 0)]},
)


def nve(port, number=1):
    return Who(port, Origin.IGMP, bytes((2, 0, 0, 0, port, number)), ip_address(f"10.1.{port}.{number}"))


def ports_of(publisher, group, source=None):
    """The ports that get a copy; None where there is no list."""
    found = publisher.lists.get(group_key(Scope.DEVICE, group, source))
    return None if found is None else {egress.owner.port for egress in found.local}


@pytest.fixture
def table():
    return Membership()


@pytest.fixture
def publisher(table):
    return Publisher(table, BASIS)


def test_a_group_with_peers_has_a_list_before_anybody_joins(publisher):
    (one,) = publisher.lists.values()
    assert one.key == group_key(Scope.DEVICE, G)
    assert [egress.owner for egress in one.remote] == [Owner(address=PEER)]


def test_a_burst_of_changes_is_one_step_with_each_group_once(table, publisher):
    for number in range(1, 50):
        table.apply(G, nve(1, number), ALL)
        table.apply(H, nve(2, number), ALL)
    step = publisher.update()
    assert [one.key for one in step.lists] == [group_key(Scope.DEVICE, G), group_key(Scope.DEVICE, H)]
    assert publisher.update() == Step([], [])


def test_an_nve_behind_a_port_that_has_members_changes_no_list(table, publisher):
    table.apply(G, nve(1, 1), ALL)
    publisher.update()
    table.apply(G, nve(1, 2), ALL)
    assert publisher.update() == Step([], [])
    table.apply(G, nve(1, 1), None)
    assert publisher.update() == Step([], [])
    table.apply(G, nve(1, 2), None)
    assert [one.local for one in publisher.update().lists] == [()]


def test_the_last_leave_of_a_group_without_peers_removes_its_list(table, publisher):
    table.apply(H, nve(1), ALL)
    publisher.update()
    table.apply(H, nve(1), None)
    assert publisher.update() == Step([], [group_key(Scope.DEVICE, H)])
    assert group_key(Scope.DEVICE, H) not in publisher.lists


def test_a_source_that_is_wanted_by_name_goes_to_those_who_want_it_and_no_other_to_them(table, publisher):
    """The (S,G) state reaches the lists: a packet whose source no member wants is not copied."""
    table.apply(H, nve(1), Wants(is_exclude=False, sources=frozenset({S1})))
    publisher.update()
    assert (ports_of(publisher, H, S1), ports_of(publisher, H)) == ({1}, set())
    table.apply(H, nve(2), Wants(is_exclude=True, sources=frozenset({S1, S2})))
    publisher.update()
    assert [ports_of(publisher, H, s) for s in (S1, S2, None)] == [{1}, set(), {2}]


def test_lists_of_sources_go_when_nobody_names_them_any_more(table, publisher):
    table.apply(H, nve(1), Wants(is_exclude=False, sources=frozenset({S1, S2})))
    publisher.update()
    table.apply(H, nve(1), ALL)
    step = publisher.update()
    assert set(step.removed) == {group_key(Scope.DEVICE, H, s) for s in (S1, S2)}
    assert ports_of(publisher, H) == {1}


def test_tunnel_copies_do_not_depend_on_the_sources_that_members_here_want(table, publisher):
    table.apply(G, nve(1), Wants(is_exclude=False, sources=frozenset({S1})))
    publisher.update()
    assert all([e.owner.address for e in one.remote] == [PEER] for one in publisher.lists.values())


def test_what_a_peer_rewrites_reaches_everybody_since_its_source_is_hidden(table, publisher):
    table.apply(G, nve(1), Wants(is_exclude=False, sources=frozenset({S1})))
    publisher.update()
    assert ports_of(publisher, G, PEER) == {1}


def test_members_at_a_port_are_served_together_and_a_source_that_one_of_them_wants_needs_no_list(
    table, publisher
):
    for number, wants in enumerate((Wants(False, frozenset({S1})), Wants(True, frozenset({S1, S2})))):
        table.apply(H, nve(1, number), wants)
    publisher.update()
    assert [ports_of(publisher, H, source) for source in (None, S1, S2)] == [{1}, None, set()]


def test_a_port_that_names_too_many_sources_of_a_group_gets_all_and_nobody_else_does(table, publisher):
    sources = [ip_address(0xC0000200 + n) for n in range(SOURCES_MAX + 1)]
    table.apply(H, nve(2), Wants(False, frozenset({S1})))
    table.apply(H, nve(1, 0), Wants(False, frozenset(sources[:-1])))
    publisher.update()
    assert len(publisher.lists) == 2 + SOURCES_MAX, "with those of the groups"
    table.apply(H, nve(1, 0), Wants(False, frozenset(sources)))
    publisher.update()
    assert (ports_of(publisher, H), ports_of(publisher, H, S1)) == ({1}, {1, 2})
    assert ports_of(publisher, H, sources[7]) is None


def test_a_new_basis_gives_the_difference_and_takes_what_was_not_published_yet_along(table, publisher):
    table.apply(G, nve(1), ALL)
    publisher.update()
    table.apply(H, nve(1), ALL)
    step = publisher.rebase(replace(BASIS, peers={}))
    assert {one.key.group for one in step.lists} == {G, H}
    assert publisher.rebase(replace(BASIS, peers={})) == Step([], [])
    named = replace(BASIS, peers={}, networks=(Network("blue", 7, 5000, group=G),))
    assert {one.key.group for one in publisher.rebase(named).lists} == {G, H}, "networks are kept with lists"


def test_d8_tunnels_are_installed_replaced_and_deleted_and_the_same_instruction_again_is_nothing(
    table, publisher
):
    """D8: TI(g), by the config until there is a manager; a deleted tunnel leaves the members alone."""
    other = Remote(ip_address("10.0.0.3"), 0)
    table.apply(H, nve(1), ALL)
    publisher.update()
    for peers, wanted in (([Remote(PEER, 0)], [PEER]), ([other], [other.address]), ([], [])):
        basis = replace(BASIS, peers={H: peers})
        publisher.rebase(basis)
        assert publisher.rebase(basis) == Step([], [])
        one = publisher.lists[group_key(Scope.DEVICE, H)]
        assert [egress.owner.address for egress in one.remote] == wanted
        assert [egress.owner.port for egress in one.local] == [1]


def test_an_nve_that_joins_although_it_is_served_by_unicast_gets_one_copy(table, publisher):
    """Who joins gets what goes to the group at the port; the config's copy is for who never joins."""
    served = nve(1)
    table.apply(H, Who(1, Origin.STATIC, address=served.address), ALL)
    table.apply(H, nve(1, 2), ALL)
    publisher.update()
    one, both = group_key(Scope.DEVICE, H), {Owner(1, served.address), Owner(port=1)}
    assert {egress.owner for egress in publisher.lists[one].local} == both
    table.apply(H, served, ALL)
    publisher.update()
    assert [egress.owner for egress in publisher.lists[one].local] == [Owner(port=1)]
    table.apply(H, served, None)
    publisher.update()
    assert {egress.owner for egress in publisher.lists[one].local} == both


def test_a_box_that_is_no_device_has_no_lists_of_groups(table):
    publisher = Publisher(table)
    table.apply(G, nve(1), ALL)
    assert publisher.update() == Step([], [])
    assert publisher.lists == {}


def unordered(lists):
    """What each list makes; the data path has an order of its own."""
    return {key: (set(one.local), set(one.remote)) for key, one in lists.items()}


WANTS = st.none() | st.builds(
    Wants, st.booleans(), st.frozensets(st.sampled_from([S1, S2, PEER]), max_size=2)
)
CHANGES = st.lists(
    st.tuples(st.sampled_from([G, H]), st.builds(nve, st.integers(1, 2), st.integers(1, 2)), WANTS),
    max_size=20,
)


@given(CHANGES, st.integers(1, 5))
def test_step_by_step_comes_to_the_same_lists_as_all_at_once(changes, every):
    table, at_once = Membership(), Membership()
    publisher = Publisher(table, BASIS)
    kept = dict(publisher.lists)
    for place, change in enumerate(changes):
        table.apply(*change)
        at_once.apply(*change)
        if place % every == 0:
            step = publisher.update()
            kept |= {one.key: one for one in step.lists}
            for key in step.removed:
                del kept[key]
    step = publisher.update()
    kept |= {one.key: one for one in step.lists}
    for key in step.removed:
        del kept[key]
    assert unordered(kept) == unordered(publisher.lists) == unordered(Publisher(at_once, BASIS).lists)


def of_vms(*networks):
    """The basis with an NVE: the VNI and the VM ports of each of its networks."""
    overlay = Overlay(ip_address("10.1.1.2"), 0)
    lists = [plan_nve_network(Network("", vni, None, group=G), ports, overlay) for vni, ports in networks]
    return replace(BASIS, overlay=tuple(one for several in lists for one in several))


def test_a_vm_port_that_comes_or_goes_changes_the_list_of_its_network_and_no_other():
    """Such a basis is equal to the one before: it takes no more than `reroute`, which plans no group."""
    publisher = Publisher(Membership(), of_vms((5, [1]), (6, [2])))
    of_group = publisher.lists[group_key(Scope.DEVICE, G)]
    blue, red = (vni_key(Scope.NVE, Encap.VXLAN, vni) for vni in (5, 6))
    assert publisher.lists.keys() == {of_group.key, blue, red}
    more = of_vms((5, [1, 3]), (6, [2]))
    assert more == BASIS
    step = publisher.reroute(more)
    assert ([one.key for one in step.lists], step.removed) == ([blue], [])
    assert [egress.out_port for egress in publisher.lists[blue].local] == [1, 3]
    step = publisher.reroute(of_vms((5, [1, 3])))
    assert (step.lists, step.removed) == ([], [red])
    assert publisher.lists.keys() == {of_group.key, blue}
    assert publisher.lists[of_group.key] is of_group
    assert publisher.reroute(of_vms((5, [1, 3]))) == Step([], [])


def test_a_new_basis_has_the_lists_of_its_vms():
    publisher = Publisher(Membership(), of_vms((5, [1])))
    step = publisher.rebase(replace(of_vms((6, [1])), peers={}))
    assert [one.key for one in step.lists] == [vni_key(Scope.NVE, Encap.VXLAN, 6)]
    assert set(step.removed) == {vni_key(Scope.NVE, Encap.VXLAN, 5), group_key(Scope.DEVICE, G)}
