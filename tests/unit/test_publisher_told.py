"""What a manager says becomes lists: peers of a device's groups, and the lists of a replication point."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.membership import ALL, Membership, Origin, Who
from ctrl.planner import Remote, Tunnel, Ways
from ctrl.point_lists import Point, Receivers
from ctrl.publisher import Basis, Publisher, Step
from fastpath.model import Egress, Encap, Form, GroupKey, Owner, ReplicationList, Scope, group_key, vni_key

G, H = ip_address("239.1.1.100"), ip_address("239.1.1.101")
A, B, C, D = (ip_address(f"10.0.0.{n}") for n in (1, 2, 3, 4))
OWN = ip_address("10.0.0.110")
CORE, OTHER = 2, 1
DEVICE = Basis((Encap.VXLAN,) * 3, Tunnel(Form.NESTED, A), ways=Ways((), (CORE,)))
POINT = Basis((Encap.VXLAN,) * 3, point=Point(OWN), ways=Ways((), (CORE,)))


def device_list(publisher, group):
    return publisher.lists.get(group_key(Scope.DEVICE, group))


def peers_of(publisher, group):
    one = device_list(publisher, group)
    return None if one is None else {egress.address: egress.out_port for egress in one.remote}


def test_d8_what_a_manager_says_is_installed_replaced_and_deleted_and_said_again_is_nothing():
    """D8: TI(g); each word counts alone, whatever stood there before."""
    publisher = Publisher(Membership(), DEVICE)
    for peers in ((B, C), (C, D), (C,), ()):
        publisher.instruct(G, peers)
        publisher.update()
        assert peers_of(publisher, G) == (dict.fromkeys(peers, CORE) or None)
        publisher.instruct(G, peers)
        assert publisher.update() == Step([], [])


def test_d11_a_group_by_a_point_costs_one_copy_whatever_the_number_of_devices():
    publisher = Publisher(Membership(), DEVICE)
    publisher.instruct(G, (OWN,))
    publisher.update()
    assert peers_of(publisher, G) == {OWN: CORE}


def test_what_is_told_of_a_group_leaves_its_members_and_the_peers_of_the_config():
    table = Membership()
    publisher = Publisher(table, replace(DEVICE, peers={G: [Remote(D, OTHER)]}))
    table.apply(G, Who(0, Origin.IGMP, b"\2\0\0\0\0\1", ip_address("10.1.1.2")), ALL)
    publisher.instruct(G, (B, D))
    publisher.update()
    assert peers_of(publisher, G) == {D: OTHER, B: CORE}, (
        "an owner stands in a list once, by the config's way"
    )
    publisher.instruct(G, ())
    publisher.update()
    one = device_list(publisher, G)
    assert [e.owner for e in one.local] == [Owner(port=0)]
    assert peers_of(publisher, G) == {D: OTHER}


def test_a_box_that_was_told_before_it_is_a_device_forwards_by_it_once_it_is():
    publisher = Publisher(Membership())
    publisher.instruct(G, (B,))
    publisher.rebase(DEVICE)
    assert peers_of(publisher, G) == {B: CORE}
    publisher.rebase(Basis())
    assert publisher.lists == {}


def test_another_route_plans_the_groups_behind_it_and_no_others():
    publisher = Publisher(Membership(), DEVICE)
    publisher.instruct(G, (B, C))
    publisher.instruct(H, (C,))
    publisher.update()
    step = publisher.reroute(replace(DEVICE, ways=Ways((), (CORE,), {B: OTHER})))
    assert [one.key.group for one in step.lists] == [G]
    assert peers_of(publisher, G) == {B: OTHER, C: CORE}
    step = publisher.reroute(replace(DEVICE, ways=Ways((), (CORE,))))
    assert [one.key.group for one in step.lists] == [G], "the route is gone: the port that faces the core"


def test_r1_a_receiver_that_no_port_reaches_is_left_out_of_the_lists_of_a_point():
    ways = Ways((), (), {B: CORE})
    publisher = Publisher(Membership(), replace(POINT, ways=ways))
    publisher.instruct_point(G, Receivers((B, C), (D,), vnis=(100,)))
    publisher.update()
    assert {e.address for one in publisher.lists.values() for e in one.remote} == {B}


def nested(address, out_port=CORE):
    return Egress(out_port, Form.NESTED, Owner(address=address), address, OWN)


def rewritten(address, source=OWN):
    return Egress(CORE, Form.REWRITE, Owner(address=address), address, source)


def test_r1_the_list_of_a_point_is_installed_replaced_and_deleted():
    key = group_key(Scope.REPLICATOR, G)
    publisher = Publisher(Membership(), POINT)
    for devices in ((A, B), (B, C, D), (B,)):
        publisher.instruct_point(G, Receivers(devices))
        step = publisher.update()
        assert step == Step([ReplicationList(key, (), tuple(nested(a) for a in devices))], [])
        publisher.instruct_point(G, Receivers(devices))
        assert publisher.update() == Step([], [])
    publisher.instruct_point(G, None)
    assert publisher.update() == Step([], [key])
    assert publisher.lists == {}


@pytest.mark.parametrize("is_source", [True, False])
def test_w7_who_rewrites_finds_the_list_of_its_number(is_source):
    """W7: a packet to the AR-IP carries a number and no group; source = own or keep."""
    publisher = Publisher(Membership(), replace(POINT, point=Point(OWN, is_source)))
    publisher.instruct_point(G, Receivers((A, B), (), (100,), (5000,)))
    publisher.update()
    wanted = tuple(rewritten(a, OWN if is_source else None) for a in (A, B))
    for key in (
        vni_key(Scope.REPLICATOR, Encap.VXLAN, 100),
        vni_key(Scope.REPLICATOR, Encap.NVGRE, 5000),
    ):
        assert publisher.lists[key] == ReplicationList(key, (), wanted)


def test_n9_a_number_that_two_groups_carry_has_the_receivers_of_both():
    key = vni_key(Scope.REPLICATOR, Encap.VXLAN, 100)
    publisher = Publisher(Membership(), POINT)
    publisher.instruct_point(G, Receivers((A, B), (), (100,)))
    publisher.instruct_point(H, Receivers((B, C), (), (100, 101)))
    publisher.update()
    assert {e.address for e in publisher.lists[key].remote} == {A, B, C}
    publisher.instruct_point(G, Receivers((A, B), (), (102,)))
    publisher.update()
    assert {e.address for e in publisher.lists[key].remote} == {B, C}
    publisher.instruct_point(H, None)
    assert key in publisher.update().removed


def test_r11_in_a_tree_what_comes_from_a_point_goes_to_devices_alone():
    """R11: the points are the other segment of the list, which packets to the IR-IP do not reach."""
    publisher = Publisher(Membership(), POINT)
    publisher.instruct_point(G, Receivers((A, B), (D,), (100,)))
    publisher.update()
    group, number = group_key(Scope.REPLICATOR, G), vni_key(Scope.REPLICATOR, Encap.VXLAN, 100)
    assert publisher.lists[group] == ReplicationList(group, (nested(A), nested(B)), (nested(D),))
    assert publisher.lists[number] == ReplicationList(number, (rewritten(A), rewritten(B)), (rewritten(D),))


def test_a_list_of_the_config_is_not_a_manager_s_to_change():
    fixed = ReplicationList(group_key(Scope.REPLICATOR, G), (), (nested(D),))
    publisher = Publisher(Membership(), replace(POINT, fixed=(fixed,)))
    publisher.instruct_point(G, Receivers((A, B)))
    publisher.instruct_point(H, Receivers((A, B)))
    assert [one.key.group for one in publisher.update().lists] == [H]
    publisher.instruct_point(G, None)
    assert publisher.update() == Step([], [])
    assert publisher.lists[fixed.key] is fixed


def test_the_devices_of_a_point_move_with_their_routes():
    publisher = Publisher(Membership(), POINT)
    publisher.instruct_point(G, Receivers((A, B)))
    publisher.instruct_point(H, Receivers((B,)))
    publisher.update()
    step = publisher.reroute(replace(POINT, ways=Ways((), (CORE,), {A: OTHER})))
    assert [one.remote for one in step.lists] == [(nested(A, OTHER), nested(B))]


WORDS = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([G, H]),
        st.lists(st.sampled_from([A, B, C, D]), unique=True, max_size=3).map(tuple),
        st.lists(st.sampled_from([100, 101]), unique=True).map(tuple),
    ),
    max_size=12,
)
BOTH = replace(DEVICE, point=Point(OWN))


@given(WORDS, st.integers(1, 4))
def test_any_sequence_of_words_comes_to_the_lists_of_the_last_ones(words, every):
    publisher = Publisher(Membership(), BOTH)
    kept: dict[GroupKey, ReplicationList] = {}
    last = {}
    for place, (is_point, group, peers, vnis) in enumerate(words):
        last[is_point, group] = (peers, vnis)
        say(publisher, is_point, group, peers, vnis)
        if place % every == 0:
            take(publisher.update(), kept)
    take(publisher.update(), kept)
    fresh = Publisher(Membership(), BOTH)
    for (is_point, group), (peers, vnis) in sorted(last.items(), key=str):
        say(fresh, is_point, group, peers, vnis)
    fresh.update()
    assert sets(kept) == sets(publisher.lists) == sets(fresh.lists)
    publisher.rebase(BOTH)
    assert sets(publisher.lists) == sets(fresh.lists)


def say(publisher, is_point, group, peers, vnis):
    if is_point:
        publisher.instruct_point(group, Receivers(peers, (), vnis) if peers else None)
    else:
        publisher.instruct(group, peers)


def take(step, kept):
    kept |= {one.key: one for one in step.lists}
    for key in step.removed:
        del kept[key]


def sets(lists):
    return {key: (set(one.local), set(one.remote)) for key, one in lists.items()}
