"""A role of this box and its managers: what is said when, what is kept, and what is shown of it."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest

from ctrl.daemon import instructing, shown_fabric
from ctrl.daemon.instructing import Instructing
from ctrl.events import Bus
from ctrl.refusals import REFUSALS
from ctrl.roles.instructed import Instructed
from ctrl.roles.tunnels import Bounds
from ctrl.rpc.client import Client as RpcClient
from ctrl.rpc.messages import Ack, Group, Groups, Hello, Instructions, Keepalive, PointState, Refused, Welcome
from ctrl.store.held import Held
from ctrl.topology.entry import ANY, tenant_key
from ctrl.view import PointStateView
from fastpath.model import IPAddress, Scope
from tests.unit.driven import Client, Disk, Probes, going, rounds, until
from tests.unit.instructed import P1, P2, TOR, by_point, device, key, mesh

pytestmark = pytest.mark.asyncio

FAR = ip_address(device(2))
FURTHER = ip_address(device(3))
GROUP = ip_address(key(1))
MANAGER = "10.0.0.100:9470"
BOUNDS, NOTHING = Bounds(), Held()


class Box:
    """The rest of a box: `fresh` are the peers that the next look finds new, `answer` is set when next hops
    are known."""

    def __init__(self, bounds=BOUNDS, held=NOTHING, store=None):
        self.events = Bus(lambda: 0.0)
        self.instructed = Instructed(TOR, bounds, held)
        self.client = Client()
        self.fresh: frozenset[IPAddress] = frozenset()
        self.obeyed = []
        """What group 1 had for peers whenever the box was to obey."""
        self.asked = []
        self.answer = asyncio.Event()
        self.side = Instructing(Scope.DEVICE, self.instructed, store, self.events, self.obey, self.resolved)

    def obey(self):
        self.obeyed.append(self.instructed.peers(key(1)))
        fresh, self.fresh = self.fresh, frozenset()
        return fresh

    async def resolved(self, fresh):
        self.asked.append(fresh)
        await self.answer.wait()
        self.answer.clear()

    def run(self, probes=None):
        return going(self.side.run(cast("RpcClient", self.client), probes))

    def begin(self, keepalive_s=10.0):
        self.side.connected(MANAGER)
        self.side.heard(Welcome("m1", "s", keepalive_s))

    def tell(self, number, *entries, fresh=(), **how):
        self.fresh = frozenset(fresh)
        self.side.heard(Instructions(number, number, entries, **how))


# --- what is said -------------------------------------------------------------------------------------------


async def test_a_session_begins_with_who_we_are_and_all_our_groups():
    box = Box()
    async with box.run():
        box.side.joined(GROUP.packed, (7,), (7000,))
        box.side.connected(MANAGER)
        groups = Group(key(1), (7,), (7000,))
        assert box.client.sent == [Hello(TOR), Groups(2, added=(groups,), is_full=True)]


async def test_groups_that_are_joined_in_one_round_are_one_message():
    """D16: a burst of joins is said once."""
    box = Box()
    async with box.run():
        box.begin()
        for n in range(1, 51):
            box.side.joined(key(n), (), ())
        box.side.left(GROUP.packed)
        assert len(box.client.said(Groups)) == 1, "nothing is said before the round is over"
        await rounds()
        _, difference = box.client.said(Groups)
        assert [group.key for group in difference.added] == [key(n) for n in range(2, 51)]


async def test_an_ack_waits_for_the_next_hops_of_new_peers_and_no_other_message_does():
    """M12: who waits for an acknowledgement waits for copies that arrive."""
    box = Box()
    async with box.run():
        box.begin()
        box.tell(1, mesh(1, 2), fresh=[FAR], is_full=True)
        assert box.obeyed[-1] == (device(2),), "it is in force at once"
        box.side.joined(GROUP.packed, (), ())
        await rounds()
        assert box.asked == [{FAR}]
        assert [type(one) for one in box.client.sent] == [Hello, Groups, Groups]
        box.answer.set()
        await rounds()
        assert box.client.sent[-1] == Ack(1)


async def test_an_ack_of_what_leads_to_no_new_peer_is_said_at_once():
    box = Box()
    async with box.run():
        box.begin()
        box.tell(1, mesh(1, 2), is_full=True)
        assert box.client.sent[-1] == Ack(1)
        assert box.asked == []


async def test_no_ack_overtakes_another_one():
    box = Box()
    async with box.run():
        box.begin()
        box.tell(1, mesh(1, 2), fresh=[FAR], is_full=True)
        await rounds()
        box.tell(2, mesh(2, 2))
        await rounds()
        assert box.client.said(Ack) == []
        box.answer.set()
        await rounds()
        assert box.client.said(Ack) == [Ack(1), Ack(2)]


async def test_an_ack_waits_for_the_peers_that_came_while_another_one_waited():
    box = Box()
    async with box.run():
        box.begin()
        box.tell(1, mesh(1, 2), fresh=[FAR], is_full=True)
        await rounds()
        box.tell(2, mesh(2, 3), fresh=[FURTHER])
        box.answer.set()
        await rounds()
        assert box.asked == [{FAR}, {FURTHER}]
        assert Ack(2) not in box.client.sent
        box.answer.set()
        await rounds()
        assert box.client.said(Ack) == [Ack(1), Ack(2)]


async def test_what_waited_to_be_said_in_a_session_is_not_said_in_the_next():
    box = Box()
    async with box.run():
        box.begin()
        box.tell(1, mesh(1, 2), fresh=[FAR], is_full=True)
        await rounds()
        box.side.disconnected()
        box.begin()
        box.answer.set()
        await rounds()
        assert box.client.said(Ack) == []
        box.tell(1, mesh(1, 2), is_full=True)
        await rounds()
        assert box.client.said(Ack) == [Ack(1)]


async def test_a_manager_that_speaks_out_of_turn_is_left_with_a_sentence():
    box = Box()
    async with box.run():
        box.side.connected(MANAGER)
        box.tell(1, mesh(1, 2))
        assert box.client.ended == ["the manager sent Instructions before its Welcome"]
        assert box.obeyed[-1] == ()


async def test_what_is_due_is_done_without_a_word_from_anybody():
    """Keepalives by the manager's own pace, and an end for one that is silent."""
    box = Box()
    async with box.run():
        box.begin(keepalive_s=0.01)
        await until(lambda: box.client.ended)
        assert box.client.ended[0].startswith("the manager said nothing for")
        assert Keepalive(1) in box.client.sent
        box.side.disconnected()
        n_said = len(box.client.sent)
        assert box.side._alarm is None
        await rounds()
        assert len(box.client.sent) == n_said


# --- points -------------------------------------------------------------------------------------------------


async def test_a_point_that_fails_is_gone_round_at_once_and_the_manager_is_told():
    """M12, R9: nobody is asked."""
    box = Box()
    async with box.run():
        box.begin()
        box.tell(1, by_point(1, backup=(device(2), device(3))), is_full=True)
        assert box.obeyed[-1] == (P1,)
        box.side.probed(P1, is_up=False)
        assert box.obeyed[-1] == (device(2), device(3))
        assert box.client.sent[-1] == PointState(P1, is_up=False)
        box.side.probed(P1, is_up=True)
        assert box.obeyed[-1] == (P1,)
        assert box.client.sent[-1] == PointState(P1, is_up=True)


async def test_points_are_probed_from_the_start_and_for_as_long_as_tunnels_lead_there():
    box, probes = Box(held=Held("s", 3, {key(1): by_point(1)})), Probes()
    async with box.run(probes):
        assert probes.wanted == {P1}
        box.begin()
        box.tell(4, by_point(1, P2), is_full=True)
        assert probes.wanted == {P2}
        box.tell(5, removed=(key(1),))
        assert probes.wanted == set()


# --- what is kept -------------------------------------------------------------------------------------------


async def test_instructions_are_kept_and_all_of_them_after_a_write_that_failed(monkeypatch, caplog):
    """M9, M10: what is on the disk is what the next start forwards by."""
    monkeypatch.setattr(instructing, "STORE_S", 0.0)
    disk = Disk()
    box = Box(store=disk)
    async with box.run():
        box.begin()
        box.tell(1, mesh(1, 2), is_full=True)
        await until(lambda: disk.written)
        assert disk.written[0].entries == {key(1): mesh(1, 2)}
        assert (disk.written[0].store, disk.written[0].revision) == ("s", 1)

        disk.is_full = True
        box.tell(2, mesh(2, 2))
        await until(lambda: disk.tried > 3)
        disk.is_full = False
        await until(lambda: disk.written[1:])
        assert disk.written[1].is_all
        assert set(disk.written[1].entries) == {key(1), key(2)}
    assert caplog.messages == ["instructions are not kept why=no space is left"], "said once"


async def test_what_is_nowhere_kept_does_not_gather(monkeypatch):
    monkeypatch.setattr(instructing, "STORE_S", 0.0)
    box = Box()
    async with box.run():
        box.begin()
        box.tell(1, mesh(1, 2), is_full=True)
        await until(lambda: not box.instructed._tunnels.unstored)


# --- what is told of it -------------------------------------------------------------------------------------


async def test_sessions_that_come_and_go_and_what_is_refused_is_told_to_who_watches():
    box = Box()
    with box.events.subscribe(["sessions", "instructions"]) as heard:
        async with box.run():
            box.begin()
            box.tell(1, mesh(1, 1), mesh(2, 2), is_full=True)
            box.side.disconnected()
        rows = await heard.read(0)
    assert [(row["topic"], row["event"]) for row in rows] == [
        ("sessions", "came"),
        ("instructions", "refused"),
        ("sessions", "went"),
    ]
    assert [row["manager"] for row in rows[::2]] == [MANAGER, None]
    assert (rows[1]["group"], rows[1]["why"]) == (str(GROUP), "own_address_as_peer")


async def test_a_session_is_shown_with_what_is_in_force_and_what_is_not():
    box = Box(held=Held("s", 3, {key(1): mesh(1, 2)}))
    (row,) = shown_fabric.own_sessions([box.side])
    assert (row.node, row.role, row.manager, row.is_up) == ("tor1", "device", None, False)
    assert (row.revision, row.last_s, row.n_pending) == (3, None, 0)
    assert row.told_s == row.since_s, "instructions from the disk are as old as the start"
    async with box.run():
        box.begin()
        box.tell(4, mesh(1, 1), mesh(2, 2), is_full=True)
        box.side.joined(GROUP.packed, (), ())
        box.side.heard(Refused(((key(1), "groups_full"),)))
        (row,) = shown_fabric.own_sessions([box.side])
    assert (row.manager, row.is_up, row.revision) == (MANAGER, True, 4)
    assert (row.n_pending, row.n_refused) == (1, 2)
    assert row.last_s is not None
    assert row.told_s is not None
    assert 0 <= row.last_s <= row.told_s <= row.since_s


async def test_a_session_that_is_not_up_says_why_manager_by_manager():
    box, other = Box(), "10.0.0.101:9470"
    assert why_of(box) is None, "nobody was tried"
    async with box.run():
        box.client.problems = {MANAGER: "no answer in time", other: "its certificate is not for 10.0.0.101"}
        assert why_of(box) == f"{MANAGER}: no answer in time; {other}: its certificate is not for 10.0.0.101"
        box.side.connected(MANAGER)
        assert why_of(box) is not None, "it has not welcomed us"
        del box.client.problems[MANAGER]
        assert why_of(box) is None
        box.side.disconnected()
        assert why_of(box) == f"{other}: its certificate is not for 10.0.0.101"


def why_of(box):
    (row,) = shown_fabric.own_sessions([box.side])
    return row.why


async def test_a_refusal_is_logged_once_until_there_is_another_one(caplog):
    box = Box()
    logged = [f"instruction refused group={GROUP} why=own_address_as_peer"]
    async with box.run():
        with box.events.subscribe(["instructions"]) as heard:
            box.begin()
            box.tell(1, mesh(1, 1), is_full=True)
            box.tell(1, mesh(1, 1), is_full=True)
            box.side.heard(Keepalive(2))
            assert len(box.client.said(Ack)) == 3, "it is said again"
            assert len(await heard.read(0)) == 1
            box.tell(2, mesh(1, 1), is_full=True)
            assert len(await heard.read(0)) == 1, "it was told again"
            assert refusals(caplog) == logged
            box.tell(3, mesh(1, 2))
            box.tell(4, mesh(1, 1))
            assert refusals(caplog) == logged * 2


def refusals(caplog):
    return [one.getMessage() for one in caplog.records if "refused group" in one.getMessage()]


async def test_instructions_that_never_came_have_no_age():
    (row,) = shown_fabric.own_sessions([Box().side])
    assert row.told_s is None


async def test_what_is_in_force_is_shown_by_role_and_as_of_now():
    box = Box(held=Held("s", 3, {key(1): mesh(1, 2)}))
    shown = shown_fabric.told([box.side])
    box.begin()
    box.tell(4, removed=(key(1),), is_full=True)
    assert shown == {Scope.DEVICE: {key(1): mesh(1, 2)}}, "a view does not change"
    assert shown_fabric.told([box.side]) == {Scope.DEVICE: {}}


async def test_what_tenants_want_is_no_tunnel_that_is_shown_but_counts_by_itself():
    wanted = tenant_key(key(1), 5001, ANY)
    held = {key(1): mesh(1, 2), wanted: mesh(1, 2)._replace(key=wanted)}
    box = Box(held=Held("s", 3, held))
    assert shown_fabric.told([box.side]) == {Scope.DEVICE: {key(1): mesh(1, 2)}}
    (row,) = shown_fabric.own_sessions([box.side])
    assert row.n_tenants == 1


async def test_points_are_shown_where_they_are_probed():
    box = Box(held=Held("s", 3, {key(1): by_point(1), key(2): by_point(2, P2)}))
    assert list(shown_fabric.points([box.side])) == []
    async with box.run(Probes()):
        box.side.probed(P2, is_up=False)
        assert list(shown_fabric.points([box.side])) == [
            PointStateView(ip_address(P1), is_up=True),
            PointStateView(ip_address(P2), is_up=False),
        ]


async def test_what_roles_and_probes_refuse_is_counted_together_by_names_of_the_table():
    probes, boxes = Probes(), [Box(), Box(bounds=replace(BOUNDS, max_peers_per_group=1))]
    for box in boxes:
        box.begin()
        box.tell(1, mesh(1, 1), mesh(2, 2, 3), is_full=True)
    boxes[1].side.probes = probes
    probes.counted = {"overrun": 3, "heard": 9}
    counts = shown_fabric.refused([box.side for box in boxes], None)
    assert counts == {
        "instruction_own_address_as_peer": 2,
        "instruction_peers_full": 1,
        "probe_overrun": 3,
    }
    assert counts.keys() <= REFUSALS.keys()
