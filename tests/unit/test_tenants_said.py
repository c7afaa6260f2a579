"""What a node says of its tenants (framework 3.2): the keys of its second information, and in which order."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.tenants_said import Numbers, TenantsSaid
from ctrl.topology.entry import ANY, AWARE, split_tenant, tenant_key
from fastpath.model import GroupMap, IPAddress, Network

OUTER, MAPPED, OTHER = (ip_address(f"239.1.1.{n}") for n in (100, 101, 102))
T, U, U6 = ip_address("239.5.5.5"), ip_address("239.6.6.6"), ip_address("ff15::6")
BLUE = Network("blue", 5001, 6001, group=OUTER, snoop=True)
RED = Network("red", 5002, None, group=OTHER, snoop=True)
NUMBERS = Numbers((5001,), (6001,))


class Heard:
    """What tenants said, by network."""

    def __init__(self):
        self.wanted, self.taking, self.retaken = {}, {}, []

    def groups(self, network):
        return [group for group, wants in self.wanted.get(network, {}).items() if wants]

    def listeners(self, network, group):
        return self.wanted.get(network, {}).get(group, ())

    def takers(self, network):
        return self.taking.get(network, ())

    def take_retaken(self):
        retaken, self.retaken = self.retaken, []
        return retaken


class Node:
    """One that may be in outer groups; `known` is what its manager knows of it."""

    def __init__(self, *networks):
        self.heard, self.known = Heard(), {}
        self.outer: set[IPAddress] = set()
        self.said = TenantsSaid(self.heard, self.outer.__contains__)
        self.said.rebase(networks)

    def be_in(self, *groups):
        for group in {*groups} ^ self.outer:
            self.outer ^= {group}
            self.said.change_outer(group)

    def want(self, group, *who, network="blue"):
        self.heard.wanted.setdefault(network, {})[group] = who
        self.said.change(network, group)

    def take_all(self, *who, network="blue"):
        self.heard.taking[network] = who
        self.heard.retaken.append(network)

    def says(self):
        news = list(self.said.take())
        for key, numbers in news:
            if numbers is None:
                del self.known[key]
            else:
                self.known[key] = numbers
        return [(split_tenant(key).inner, numbers is not None) for key, numbers in news]


@pytest.fixture
def node():
    return Node(BLUE)


def test_who_is_in_no_outer_group_says_nothing_and_in_one_all_of_it_with_its_numbers(node):
    node.want(T, 1)
    node.take_all(1)
    assert node.says() == []
    node.be_in(OUTER)
    node.says()
    inner = (T.packed, ANY, AWARE)
    assert node.known == {tenant_key(OUTER.packed, 5001, one): NUMBERS for one in inner}
    node.be_in()
    node.says()
    assert node.known == {}


def test_what_is_wanted_is_said_before_that_nothing_else_is(node):
    """Nobody leaves out what comes a little later."""
    node.be_in(OUTER)
    node.take_all(1)
    node.want(T, 1)
    assert node.says() == [(T.packed, True), (ANY, True), (AWARE, True)]
    node.want(U, 1)
    node.take_all()
    node.want(T)
    assert [one for one in node.says() if one[1]] == [(U.packed, True)]
    node.take_all(1)
    node.says()
    node.be_in()
    assert node.says()[:2] == [(AWARE, False), (ANY, False)]


def test_only_what_differs_is_said(node):
    node.be_in(OUTER)
    node.want(T, 1)
    node.says()
    node.want(T, 1, 2)
    node.take_all()
    node.be_in(OUTER, OTHER)
    assert node.says() == []
    node.want(U, 1)
    node.want(U)
    assert node.says() == []


def test_a_network_whose_number_differs_or_that_snoops_no_more_is_said_anew(node):
    node.be_in(OUTER)
    node.want(T, 1)
    node.says()
    node.said.rebase([replace(BLUE, vni=5009)])
    node.says()
    assert {split_tenant(key).vni for key in node.known} == {5009}
    node.said.rebase([])
    node.says()
    assert node.known == {}


def test_n9_a_mapped_group_is_said_of_the_group_that_carries_it():
    node = Node(replace(BLUE, maps=(GroupMap(ip_network("239.6.0.0/16"), MAPPED),)))
    node.be_in(OUTER, MAPPED)
    node.want(T, 1)
    node.want(U, 1)
    node.says()
    groups = {tenant_key(OUTER.packed, 5001, T.packed), tenant_key(MAPPED.packed, 5001, U.packed)}
    aware = {tenant_key(outer.packed, 5001, AWARE) for outer in (OUTER, MAPPED)}
    assert node.known.keys() == groups | aware
    node.be_in(OUTER)
    node.says()
    assert len(node.known) == 2


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("outer"), st.sets(st.sampled_from([OUTER, MAPPED, OTHER]))),
            st.tuples(
                st.just("want"), st.sampled_from([T, U, U6]), st.booleans(), st.sampled_from(["blue", "red"])
            ),
            st.tuples(st.just("any"), st.booleans(), st.sampled_from(["blue", "red"])),
            st.tuples(st.just("networks"), st.sets(st.sampled_from([0, 1]))),
            st.just(("say",)),
        ),
        max_size=20,
    )
)
def test_news_by_news_is_what_all_at_once_would_be(words):
    networks = [replace(BLUE, maps=(GroupMap(ip_network("239.6.0.0/16"), MAPPED),)), RED]
    node = Node(*networks)
    now = networks
    for what, *about in words:
        if what == "outer":
            node.be_in(*about[0])
        elif what == "want":
            node.want(about[0], *[1] * about[1], network=about[2])
        elif what == "any":
            node.take_all(*[1] * about[0], network=about[1])
        elif what == "networks":
            now = [networks[n] for n in sorted(about[0])]
            node.said.rebase(now)
        else:
            node.says()
    node.says()
    fresh = TenantsSaid(node.heard, node.outer.__contains__)
    fresh.rebase(now)
    assert dict(fresh.take()) == node.known
