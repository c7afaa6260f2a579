"""What `fastpath show` is given of the manager role of a box."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ctrl.daemon import shown_fabric
from ctrl.rpc.messages import Ack, Instructions
from ctrl.topology.entry import Node
from ctrl.view import DeviceView, SessionView
from tests.unit.driven import rounds, until
from tests.unit.managed import TOR1, TOR2, A, G, P, managed

pytestmark = pytest.mark.asyncio


async def test_nodes_are_shown_with_what_they_were_told_and_acknowledged():
    async with managed() as far:
        far.come(1, TOR1, G)
        far.come(2, TOR2)
        await until(lambda: far.told(1, Instructions) and far.told(2, Instructions))
        far.managing.heard(1, Ack(1))
        rows = {row.node: row for row in shown_fabric.devices(far.managing)}
        revision = far.managing.topology.revision
        one, two = rows["tor1"], rows["tor2"]
        assert (one.role, one.address, one.state) == ("device", ip_address(A), "live")
        assert (one.manager, one.n_groups, two.n_groups) == ("m1", 1, 0)
        assert (one.revision_acked, two.revision_acked) == (revision, 0)
        assert one.revision_told is not None
        assert 0 < one.revision_told <= revision
        assert one.last_s is not None
        assert one.last_s >= 0
        far.managing.closed(1)
        await until(lambda: far.keys("live") == {"live/tor2"})
        await rounds()
        (held,) = (row for row in shown_fabric.devices(far.managing) if row.node == "tor1")
        assert (held.state, held.manager, held.revision_told, held.last_s) == ("held", None, None, None)


async def test_nodes_and_sessions_may_come_and_go_while_they_are_shown():
    async with managed() as far:
        far.come(1, TOR1, G)
        far.come(2, TOR2, G)
        await far.begun(1, 2)
        walks: list[Iterator[DeviceView | SessionView]] = [
            shown_fabric.devices(far.managing),
            shown_fabric.served(far.managing, "m1"),
        ]
        first = [next(walk).node for walk in walks]
        far.managing.closed(1)
        far.come(3, Node("tor3", "device", P, 1))
        await far.begun(3)
        for name, walk in zip(first, walks, strict=True):
            assert {name, *(row.node for row in walk)} == {"tor1", "tor2"}


async def test_a_session_is_shown_with_what_is_not_in_force_yet():
    async with managed() as far:
        far.come(1, TOR1, G)
        await until(lambda: far.told(1, Instructions))
        (row,) = shown_fabric.served(far.managing, "m1")
        assert (row.node, row.role, row.manager, row.is_up) == ("tor1", "device", "m1", True)
        assert (row.n_pending, row.revision_acked) == (1, 0)
        far.managing.heard(1, Ack(1))
        (row,) = shown_fabric.served(far.managing, "m1")
        assert (row.n_pending, row.n_unwritten) == (0, 0)
        assert row.revision_acked == far.managing.topology.revision
        assert row.last_s is not None
        assert 0 <= row.last_s <= row.since_s


async def test_the_manager_is_shown_as_a_whole():
    async with managed() as far:
        far.come(1, TOR1, G)
        await until(lambda: far.told(1, Instructions))
        far.managing.heard(1, Ack(1))
        view = shown_fabric.manager_view(far.managing)
        assert (view.n_groups, view.is_settling, view.is_store_reachable) == (1, False, True)
        assert (view.revision, view.n_batches) == (far.shared.revision, 1)
        assert view.convergence[-1][0] == float("inf")
        assert sum(n for _, n in view.convergence) == far.managing.manager.convergence.count
        far.shared.is_away = True
        assert not shown_fabric.manager_view(far.managing).is_store_reachable


async def test_what_the_manager_refused_is_shown_by_the_names_of_the_table():
    async with managed() as far:
        assert far.open(1, TOR1, "tor9")
        far.server.counts["handshake"] += 2
        assert shown_fabric.refused([], far.managing) == {
            "manager_wrong_identity": 1,
            "manager_handshake": 2,
        }
