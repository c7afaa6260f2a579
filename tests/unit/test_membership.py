"""The membership table: one door for every origin; second information moves on first and last alone."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from ctrl.membership import ALL, Event, Membership, Origin, SecondInformation, Wants, Who

G, H = ip_address("239.1.1.100"), ip_address("ff05::7")
X = Who(1, Origin.IGMP, b"\2\0\0\0\0\1", ip_address("10.1.1.2"))
Y = Who(2, Origin.IGMP, b"\2\0\0\0\0\2", ip_address("10.1.2.2"))
S1, S2 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ONE = Wants(is_exclude=False, sources=frozenset({S1}))


def test_d1_a_join_adds_the_nve_to_the_group_and_the_same_join_again_changes_nothing():
    table = Membership()
    assert table.apply(G, X, ALL) == Event(G, X, None, ALL, is_first=True, revision=1)
    assert table.of(G) == {X: ALL}
    assert table.apply(G, X, ALL) is None
    assert table.take_changed() == [G]
    assert table.take_changed() == []


def test_d2_members_of_all_ports_are_in_one_table():
    table = Membership()
    for who in (X, Y):
        table.apply(G, who, ALL)
    table.apply(H, Y, ALL)
    assert dict(table.of(G)) == {X: ALL, Y: ALL}
    assert list(table.groups()) == [G, H]


def test_d3_second_information_moves_with_the_first_and_the_last_member_of_a_group_only():
    table = Membership()
    told = [table.revision]
    for who, wants in ((X, ALL), (Y, ALL), (X, ONE), (X, None), (Y, None)):
        table.apply(G, who, wants)
        told.append(table.revision)
    assert told == [0, 1, 1, 1, 1, 2]


def test_d4_the_last_leave_takes_the_group_out_of_the_second_information():
    table = Membership()
    table.apply(G, X, ALL)
    table.apply(H, X, ALL)
    assert table.second_information() == SecondInformation(2, frozenset({G, H}))
    event = table.apply(G, X, None)
    assert event == Event(G, X, ALL, None, is_last=True, revision=3)
    assert table.second_information() == SecondInformation(3, frozenset({H}))
    assert table.apply(G, X, None) is None


def test_copies_differ_only_where_nobody_at_the_port_wants_the_same():
    table = Membership()
    twin = X._replace(mac=b"\2\0\0\0\0\3")
    told = []
    for who, wants in (
        (X, ALL),
        (twin, ALL),
        (X, None),
        (X, ONE),
        (X, ALL),
        (Y, ALL),
        (X, None),
        (twin, None),
    ):
        table.apply(G, who, wants)
        told.append(bool(table.take_changed()))
    assert told == [True, False, False, True, True, True, False, True]


def test_an_nve_that_is_served_by_unicast_shares_no_copies():
    table = Membership()
    for who in (Who(1, Origin.STATIC), Who(1, Origin.STATIC, address=S1), Who(1, Origin.STATIC, address=S2)):
        table.apply(G, who, ALL)
        assert table.take_changed() == [G]
    table.apply(G, X, ALL)
    assert table.take_changed() == [], "the copy to the port's group is there already"


def test_copies_differ_where_an_nve_joins_that_is_served_by_unicast():
    table = Membership()
    for who in (Who(1, Origin.STATIC, address=Y.address), X, Y._replace(port=1)):
        table.apply(G, who, ALL)
        assert table.take_changed() == [G]


def test_an_nve_s_leave_does_not_remove_what_the_config_says():
    table = Membership()
    static = Who(1, Origin.STATIC)
    table.apply(G, static, ALL)
    table.apply(G, X, ALL)
    table.apply(G, X, None)
    assert table.of(G) == {static: ALL}
    assert table.of_origin(Origin.STATIC) == [(G, static)]


CHANGES = st.lists(
    st.tuples(st.sampled_from([G, H]), st.sampled_from([X, Y]), st.sampled_from([None, ALL, ONE])),
    max_size=30,
)


@given(CHANGES)
def test_any_order_of_changes_leaves_what_each_member_said_last(changes):
    table = Membership()
    events = [table.apply(*change) for change in changes]
    said = {(g, who): wants for g, who, wants in changes}
    left = {(g, who): wants for g in (G, H) for who, wants in table.of(g).items()}
    assert left == {place: wants for place, wants in said.items() if wants is not None}
    assert set(table.groups()) == {g for g, _ in left}
    turns = [event for event in events if event and (event.is_first or event.is_last)]
    assert table.revision == len(turns)
    assert table.n_groups == sum(1 if event.is_first else -1 for event in turns)
