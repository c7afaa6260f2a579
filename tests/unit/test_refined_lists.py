"""Tenants' groups at a device and a point: lists without those who are known not to want them (F 3.2)."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.membership import ALL, Membership, Origin, Wants, Who
from ctrl.planner import SOURCES_MAX, Remote, Tunnel, Ways
from ctrl.point_lists import Point, Receivers
from ctrl.publisher import Basis, Publisher
from ctrl.refined_lists import RefinedLists
from ctrl.tenants_told import Audience, TenantsTold, Told
from fastpath.model import ANY_GROUP, Encap, Form, GroupMap, Network, Owner, Scope, group_key, vni_key

G, MAPPED = ip_address("239.1.1.100"), ip_address("239.1.1.101")
T, U = ip_address("239.5.5.5"), ip_address("239.6.6.6")
S1, S2 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
A, B, C, D, OWN = (ip_address(f"10.0.0.{n}") for n in (1, 2, 3, 4, 110))
CORE = 9
BLUE = Network("blue", 5001, None, group=G, snoop=True)
IN_BLUE = Audience(G, 5001)


class Heard:
    """What tenants said, by network."""

    def __init__(self):
        self.wanted, self.taking, self.changed = {}, set(), []
        self.listening = {Owner(port=place) for place in range(8)}

    def want(self, group, **places):
        """Who wants it from now on: p1=ALL."""
        self.wanted[group] = {Owner(port=int(p[1:])): wants for p, wants in places.items()}
        if not places:
            del self.wanted[group]
        self.changed.append(("blue", group))

    def take_all(self, *places):
        self.taking = {Owner(port=place) for place in places}
        self.changed.append(("blue", None))

    def take_changed(self):
        changed, self.changed = self.changed, []
        return changed

    def groups(self, network):
        return list(self.wanted)

    def places(self, network):
        return self.listening

    def listeners(self, network, group):
        return self.wanted.get(group, {})

    def takers(self, network):
        return self.taking


class Box:
    """A device with NVEs at ports 1 to 3 and what a manager says."""

    def __init__(self, *networks, scope=Scope.DEVICE, basis=None):
        self.heard, self.told, self.membership = Heard(), TenantsTold(), Membership()
        self.scope = scope
        self.basis = basis or Basis(
            (Encap.VXLAN,) * 5, Tunnel(Form.NESTED, A), ways=Ways((), (CORE,)), refined=networks or (BLUE,)
        )
        self.publisher = self.fresh()

    def fresh(self):
        refined = RefinedLists(self.scope, self.heard, self.told)
        return Publisher(self.membership, self.basis, refined=(refined,))

    def join(self, *ports, group=G):
        for port in ports:
            self.membership.apply(group, Who(port, Origin.STATIC), ALL)

    def tell(self, *peers, group=G, is_mesh=True):
        self.publisher.instruct(group, peers, is_mesh)

    def list_of(self, group, source=None, number=5001):
        self.publisher.update()
        one = self.publisher.lists.get(vni_key(self.scope, Encap.VXLAN, number, group, source))
        if one is None:
            return None
        return {e.owner.port or e.address for e in (*one.local, *one.remote)}


@pytest.fixture
def box():
    box = Box()
    box.join(1, 2, 3)
    box.tell(B, C, D)
    return box


def test_a_group_that_nobody_joined_has_no_list_and_goes_by_that_of_its_network(box):
    """RFC 4541 section 2.1.2."""
    assert box.list_of(T) is None
    box.heard.want(T, p1=ALL)
    assert box.list_of(T) == {1, B, C, D}
    box.heard.want(T)
    assert box.list_of(T) is None


def test_who_wants_all_groups_gets_each_that_somebody_joined(box):
    """A multicast router, and who did not have the time to say what it wants (RFC 4541 section 2.1.1)."""
    box.heard.want(T, p1=ALL)
    box.heard.take_all(3)
    assert box.list_of(T) == {1, 3, B, C, D}
    box.heard.want(U, p2=ALL)
    assert box.list_of(U) == {2, 3, B, C, D}
    box.heard.take_all()
    assert box.list_of(T) == {1, B, C, D}


def test_an_nve_that_joins_or_leaves_the_outer_group_does_so_in_each_tenants_group(box):
    box.heard.want(T, p1=ALL, p2=ALL)
    assert box.list_of(T) == {1, 2, B, C, D}
    box.membership.apply(G, Who(2, Origin.STATIC), None)
    assert box.list_of(T) == {1, B, C, D}
    for port in (1, 3):
        box.membership.apply(G, Who(port, Origin.STATIC), None)
    box.tell()
    assert box.list_of(T) is None, "nothing is refined where there is no list"


def test_a_place_that_nobody_listens_to_gets_everything(box):
    box.heard.listening -= {Owner(port=2)}
    box.heard.want(T, p1=ALL)
    assert box.list_of(T) == {1, 2, B, C, D}


def test_each_source_that_somebody_named_has_a_list_of_those_who_want_it(box):
    box.heard.want(T, p1=Wants(False, frozenset({S1})), p2=Wants(True, frozenset({S1})), p3=ALL)
    assert box.list_of(T) == {2, 3, B, C, D}
    assert box.list_of(T, S1) == {1, 3, B, C, D}
    box.heard.want(T, p3=ALL)
    assert box.list_of(T, S1) is None


def test_who_names_too_many_sources_gets_all_of_them(box):
    many = frozenset(ip_address(0x0A000000 + n) for n in range(SOURCES_MAX + 1))
    box.heard.want(T, p1=Wants(False, many))
    assert box.list_of(T) == {1, B, C, D}
    assert sum(key.group == T for key in box.publisher.lists) == 1


def test_a_group_whose_nves_named_sources_is_not_refined(box):
    box.heard.want(T, p1=ALL)
    assert box.list_of(T) is not None
    wants = Wants(False, frozenset({ip_address("10.1.1.2")}))
    box.membership.apply(G, Who(4, Origin.IGMP, b"\2\0\0\0\0\1", ip_address("10.1.1.9")), wants)
    assert box.list_of(T) is None
    box.membership.apply(G, Who(4, Origin.IGMP, b"\2\0\0\0\0\1", ip_address("10.1.1.9")), None)
    assert box.list_of(T) == {1, B, C, D}


def test_f32_who_is_known_not_to_want_it_gets_no_copy_and_nobody_else_is_left_out(box):
    """Framework 3.2: a device without members gets none; one that reads no IGMP of tenants gets all."""
    box.told.instruct_aware(IN_BLUE, Told(frozenset({B, C})))
    box.told.instruct(IN_BLUE, T, Told(frozenset({B})))
    assert box.list_of(T) == {B, D}, "C is aware and does not want it; D does not say"
    box.told.instruct_any(IN_BLUE, Told(frozenset({C})))
    assert box.list_of(T) == {B, C, D}
    box.told.instruct_any(IN_BLUE, None)
    box.told.instruct_aware(IN_BLUE, Told(frozenset({B, C, D})))
    assert box.list_of(T) == {B}
    box.heard.want(T, p1=ALL)
    assert box.list_of(T) == {1, B}
    box.told.instruct(IN_BLUE, T, Told())
    assert box.list_of(T) == {1}
    box.told.instruct(IN_BLUE, T, None)
    assert box.list_of(T) == {1, B, C, D}, "what the manager knows nothing of may be wanted anywhere"
    box.heard.want(T)
    assert box.list_of(T) is None


def test_peers_of_the_config_and_points_are_never_left_out(box):
    box.basis = replace(box.basis, peers={G: [Remote(D, CORE)]})
    box.publisher.rebase(box.basis)
    box.tell(B, C)
    box.told.instruct_aware(IN_BLUE, Told(frozenset({B, C, D})))
    box.told.instruct(IN_BLUE, T, Told(frozenset({C})))
    assert box.list_of(T) == {C, D}
    box.tell(B, C, is_mesh=False)
    assert box.list_of(T) == {B, C, D}


def test_what_was_told_of_one_network_is_nothing_to_another_on_the_same_group():
    red = Network("red", 5002, None, group=G, snoop=True)
    box = Box(BLUE, red)
    box.join(1)
    box.tell(B)
    box.told.instruct_aware(IN_BLUE, Told(frozenset({B})))
    box.told.instruct(IN_BLUE, T, Told())
    assert box.list_of(T) == set()
    assert box.list_of(T, number=5002) is None


def test_n9_a_mapped_group_refines_the_list_of_the_group_that_carries_it():
    box = Box(replace(BLUE, maps=(GroupMap(ip_network("239.6.0.0/16"), MAPPED),), drop_unregistered=True))
    box.join(1, 2)
    box.join(3, group=MAPPED)
    for place in (T, U):
        box.heard.want(place, p1=ALL, p3=ALL)
    assert box.list_of(T) == {1}
    assert box.list_of(U) == {3}
    assert box.list_of(ANY_GROUP) is None, "one list cannot be for two groups"


def test_nvgre_and_vxlan_have_the_list_under_their_numbers():
    box = Box(replace(BLUE, vsid=6001))
    box.join(1)
    box.heard.want(T, p1=ALL)
    box.publisher.update()
    for number in ((Encap.VXLAN, 5001), (Encap.NVGRE, 6001)):
        assert vni_key(Scope.DEVICE, *number, T) in box.publisher.lists


def test_what_nobody_joined_is_for_those_who_want_any_group_where_it_is_dropped(box):
    """RFC 4541 section 2.1.2: unregistered groups go to routers at least."""
    box.basis = replace(box.basis, refined=(replace(BLUE, drop_unregistered=True),))
    box.publisher.rebase(box.basis)
    assert box.list_of(ANY_GROUP) == {B, C, D}
    box.heard.take_all(2)
    box.told.instruct_aware(IN_BLUE, Told(frozenset({B, C})))
    box.told.instruct_any(IN_BLUE, Told(frozenset({C})))
    assert box.list_of(ANY_GROUP) == {2, C, D}


def test_a_point_refines_what_its_manager_says_by_numbers_that_it_says():
    """Its config knows no network (framework 3.2)."""
    basis = Basis((Encap.VXLAN,) * 3, point=Point(OWN), ways=Ways((), (CORE,)))
    box = Box(scope=Scope.REPLICATOR, basis=basis)
    box.publisher.instruct_point(G, Receivers((A, B, C), (D,)))
    box.told.instruct_aware(IN_BLUE, Told(frozenset({A, B, C, D})))
    box.told.instruct(IN_BLUE, T, Told(frozenset({A}), (5001,), (6001,)))
    assert box.list_of(T) == {A, D}, "points that get one besides are always kept"
    assert vni_key(Scope.REPLICATOR, Encap.NVGRE, 6001, T) in box.publisher.lists
    box.publisher.instruct_point(G, Receivers((A, B), ()))
    assert box.list_of(T) == {A}
    box.told.instruct(IN_BLUE, T, None)
    assert box.list_of(T) is None


def test_n12_a_point_refines_its_own_list_by_number_to_those_who_answered():
    key = vni_key(Scope.REPLICATOR, Encap.VXLAN, 5001)
    box = Box(scope=Scope.REPLICATOR, basis=Basis(refined=(BLUE,)))
    box.heard.listening = {Owner(address=address) for address in (A, B, C)}
    box.heard.wanted = {T: {Owner(address=B): ALL}}
    device = Box()
    device.tell(A, B, C)
    device.publisher.update()
    of_group = device.publisher.lists[group_key(Scope.DEVICE, G)]
    box.publisher.rebase(replace(box.basis, fixed=(replace(of_group, key=key),)))
    assert box.list_of(T) == {B}


WORDS = st.one_of(
    st.tuples(st.just("want"), st.sampled_from([T, U]), st.sets(st.integers(1, 4))),
    st.tuples(st.just("take"), st.sets(st.integers(1, 4))),
    st.tuples(st.just("join"), st.integers(1, 4), st.booleans()),
    st.tuples(
        st.just("told"), st.sampled_from([T, U]), st.none() | st.frozensets(st.sampled_from([B, C, D]))
    ),
    st.tuples(st.just("any"), st.frozensets(st.sampled_from([B, C, D]))),
    st.tuples(st.just("aware"), st.frozensets(st.sampled_from([B, C, D]))),
    st.tuples(st.just("peers"), st.sets(st.sampled_from([B, C, D])), st.booleans()),
)


@given(st.lists(WORDS, max_size=12), st.booleans())
def test_step_by_step_is_what_all_at_once_would_be_and_nobody_who_wants_it_is_left_out(words, drops):
    box = Box(replace(BLUE, drop_unregistered=drops))
    for what, *about in words:
        if what == "want":
            box.heard.want(about[0], **{f"p{port}": ALL for port in about[1]})
        elif what == "take":
            box.heard.take_all(*about[0])
        elif what == "join":
            box.membership.apply(G, Who(about[0], Origin.STATIC), ALL if about[1] else None)
        elif what == "told":
            box.told.instruct(IN_BLUE, about[0], None if about[1] is None else Told(about[1]))
        elif what == "peers":
            box.tell(*sorted(about[0], key=int), is_mesh=about[1])
        else:
            put = box.told.instruct_any if what == "any" else box.told.instruct_aware
            put(IN_BLUE, Told(about[0]))
        box.publisher.update()
        lists = dict(box.publisher.lists)
        base = lists.get(group_key(Scope.DEVICE, G))
        for key, one in lists.items():
            if key.vni and base is not None:
                assert set(one.local) <= set(base.local)
                assert set(one.remote) <= set(base.remote)
                for egress in base.local:
                    if (
                        egress.owner in box.heard.wanted.get(key.group, {})
                        or egress.owner in box.heard.taking
                    ):
                        assert egress in one.local
        other = box.fresh()
        for group, peers in box.publisher._told.items():
            other.instruct(group, peers, group in box.publisher._meshed)
        other.update()
        assert other.lists == lists
