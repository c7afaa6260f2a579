"""The manager role of a box, driven: sessions and the store at one end, messages and writes at the other."""

import socket
from collections import Counter
from ipaddress import ip_address

import pytest

from ctrl.config import parse
from ctrl.daemon import managing as m
from ctrl.daemon import shown_fabric
from ctrl.daemon.managing import AWAY, Managing
from ctrl.events import Bus
from ctrl.roles.manager import Manager
from ctrl.rpc.messages import Hello, Instructions, Moved, Welcome
from ctrl.store.model import StoreError
from ctrl.store.opening import open_store
from ctrl.topology.entry import AWARE, MESH, Entry, Node, tenant_key
from ctrl.topology.topology import Topology
from tests.unit.driven import rounds, until
from tests.unit.managed import POINT, TOR1, TOR2, A, B, G, P, config_of, managed
from tests.unit.store_memory import Shared

pytestmark = pytest.mark.asyncio


# --- sessions -----------------------------------------------------------------------------------------------


async def test_m3_what_one_device_says_the_other_is_told_and_the_store_has_it():
    """M3, M5: who is in a group gets a tunnel to each other one."""
    async with managed() as far:
        far.come(1, TOR1, G)
        far.come(2, TOR2, G)
        assert far.told(1, Welcome) == [], "the round of the loop first"
        entry = Entry(G, MESH, (B,))
        await until(lambda: [e for one in far.told(1, Instructions) for e in one.entries] == [entry])
        assert [one.manager for one in far.told(1, Welcome)] == ["m1"]
        assert far.keys("live") == {"live/tor1", "live/tor2"}
        assert far.keys("node") == {"node/tor1", "node/tor2"}
        assert sorted(far.server.started) == [1, 2]


async def test_what_tenants_want_is_shown_behind_the_group_of_their_network():
    """Who reads what they say is not."""
    one, aware = (tenant_key(G, 5001, inner) for inner in (ip_address("239.5.5.5").packed, AWARE))
    async with managed() as far:
        far.come(1, TOR1, G, one, aware)
        await far.begun(1)
        shown = list(shown_fabric.groups(far.managing))
        group, device = ip_address(G), ip_address(A)
        assert [(row.group, row.devices, row.vnis, row.tenants) for row in shown] == [
            (group, (device,), (), None),
            (group, (device,), (5001,), "239.5.5.5"),
        ]
        (row,) = shown_fabric.devices(far.managing)
        assert row.n_groups == 1


async def test_a_session_that_ended_is_no_longer_served():
    async with managed() as far:
        far.come(1, TOR1, G)
        await far.begun(1)
        far.managing.closed(1)
        await until(lambda: far.keys("live") == set())
        assert far.keys("node") == {"node/tor1"}, "its tunnels stay for the hold time"
        assert list(shown_fabric.served(far.managing, "m1")) == []


async def test_of_two_sessions_of_a_node_the_older_one_is_ended():
    async with managed() as far:
        far.come(1, TOR1, G)
        await far.begun(1)
        far.come(2, TOR1, G)
        await far.begun(2)
        assert far.server.ended == [(1, "the node opened another session")]
        assert far.keys("live") == {"live/tor1"}


async def test_a_node_speaks_for_nobody_but_whom_its_certificate_names():
    async with managed() as far:
        assert far.open(1, TOR1, "tor1") == ""
        assert far.open(2, POINT, "tor1.point") == "", "which the server says of a box's own point"
        assert "tor2, tor1" in far.open(3, TOR1, "tor2, tor1")
        assert "tor2" in far.open(4, POINT, "tor2")
        assert far.managing.manager.refused["wrong_identity"] == 2


async def test_sessions_and_instructions_are_told_to_who_watches():
    async with managed() as far:
        with far.events.subscribe(["sessions", "instructions"]) as heard:
            far.come(1, TOR1, G)
            far.come(2, TOR2, G)
            assert far.open(3, TOR1, "tor9")
            await until(lambda: any(one.entries for one in far.told(2, Instructions)))
            far.managing.closed(1)
            rows = await heard.read(0)
    sessions = [row for row in rows if row["topic"] == "sessions"]
    assert [(row["event"], row["node"]) for row in sessions] == [
        ("came", "tor1"),
        ("came", "tor2"),
        ("refused", "tor1"),
        ("went", "tor1"),
    ]
    assert "tor9" in sessions[2]["why"]
    assert {row["manager"] for row in sessions} == {"m1"}
    assert ("told", "tor2", [str(ip_address(A))]) in [
        (row["event"], row["node"], row["peers"]) for row in rows if row["topic"] == "instructions"
    ]


async def test_d19_devices_are_told_which_nves_moved():
    nve = ip_address("10.1.1.2")
    async with managed() as far:
        far.come(1, TOR1, G)
        assert far.open(2, POINT) == ""
        await far.begun(1)
        assert far.managing.moved([nve]) == 1
        await rounds()
        assert far.told(1, Moved) == [Moved((nve.packed,))]
        assert far.told(2, Moved) == []


# --- the store ----------------------------------------------------------------------------------------------


async def test_writes_are_committed_in_their_order_and_what_became_of_each_is_told(monkeypatch):
    """While one commit is under way the next ones gather."""
    taken, committed, heard = [], [], []
    take, written = Manager.take_writes, Manager.written

    def taking(manager):
        writes = take(manager)
        taken.extend(writes)
        return writes

    def hearing(manager, write, done, now_s):
        heard.append((write, done))
        written(manager, write, done, now_s)

    monkeypatch.setattr(Manager, "take_writes", taking)
    monkeypatch.setattr(Manager, "written", hearing)
    async with managed() as far:
        commit = far.managing._store.commit

        async def committing(writes):
            committed.append(list(writes))
            return await commit(writes)

        monkeypatch.setattr(far.managing._store, "commit", committing)
        await rounds()
        far.shared.is_away = True
        for n in range(1, 6):
            node = Node(f"tor{n}", "device", bytes((10, 0, 0, n)), 1)
            assert far.managing.manager.open(n, Hello(node), None, 0.0) is None
            far.managing._settle()
            await rounds()
        assert [len(writes) for writes in committed] == [1]
        far.shared.is_away = False
        await until(lambda: len(heard) >= 5)
        await until(lambda: len(heard) == len(taken))
        assert [len(writes) for writes in committed[:2]] == [1, 4]
        all_committed = [write for writes in committed for write in writes]
        assert list(map(id, all_committed)) == list(map(id, taken))
        assert [(id(write), done) for write, done in heard] == [(id(write), True) for write in taken]


async def test_a_write_that_came_too_late_is_told_as_such(monkeypatch):
    """M11: of two managers that claim a node at once one wins, and the other one learns it."""
    heard: Counter[bool] = Counter()
    written = Manager.written

    def hearing(manager, write, done, now_s):
        heard[done] += 1
        written(manager, write, done, now_s)

    monkeypatch.setattr(Manager, "written", hearing)
    shared = Shared()
    async with managed(shared) as one, managed(shared, config_of(node="m2")) as other:
        one.come(1, TOR1, G)
        other.come(1, TOR1, G)
        await until(lambda: heard[False])
        await until(lambda: one.server.ended or other.server.ended)
        assert len(one.server.ended + other.server.ended) == 1


async def test_m9_nobody_is_served_while_the_store_is_away(monkeypatch):
    """M9: nodes do better with another manager, and forward by what they hold if there is none."""
    monkeypatch.setattr(m, "LOOK_S", 0.001)
    async with managed() as far:
        far.come(1, TOR1, G)
        far.come(2, TOR2, G)
        await far.begun(1, 2)
        far.shared.is_away = True
        assert not far.managing.is_store_reachable
        with far.events.subscribe(["sessions"]) as heard:
            assert far.open(3, POINT) == AWAY
            (row,) = await heard.read(0)
        assert (row["event"], row["node"], row["why"]) == ("refused", "tor1.point", AWAY)
        await until(lambda: sorted(far.server.ended) == [(1, AWAY), (2, AWAY)])
        far.shared.is_away = False
        far.come(4, TOR1, G)
        await far.begun(4)


async def test_a_store_that_is_lost_ends_the_manager(monkeypatch):
    async def lost(writes):
        raise StoreError("memory: emptied")

    with pytest.raises(ExceptionGroup) as broken:  # noqa: PT012  a context of several steps
        async with managed() as far:
            monkeypatch.setattr(far.managing._store, "commit", lost)
            far.come(1, TOR1, G)
            await rounds()
    assert [str(error) for error in broken.value.exceptions] == ["memory: emptied"]


async def test_m10_a_manager_of_a_new_store_settles_and_one_of_an_old_store_does_not():
    shared = Shared()
    async with managed(shared) as far:
        assert not far.managing.manager.is_settling
    async with managed(shared, config_of("hold_s = 7200\n")) as far:
        assert far.managing.manager.is_settling
        assert shown_fabric.manager_view(far.managing).is_settling


async def test_what_the_operator_is_warned_of_is_said_once_and_again_when_it_comes_back(monkeypatch, caplog):
    warnings = ["VNI 7 has no point"]
    n_looks = 0

    def look(topology):
        nonlocal n_looks
        n_looks += 1
        return list(warnings)

    async def several_looks():
        before = n_looks
        await until(lambda: n_looks > before + 2)

    monkeypatch.setattr(m, "LOOK_S", 0.0)
    monkeypatch.setattr(Topology, "warnings", look)
    caplog.set_level("WARNING")
    async with managed():
        await several_looks()
        assert caplog.messages == ["VNI 7 has no point"]
        warnings.append("VNI 8 has no point")
        await several_looks()
        assert caplog.messages[1:] == ["VNI 8 has no point"]
        warnings.clear()
        await several_looks()
        warnings.append("VNI 7 has no point")
        await several_looks()
        assert caplog.messages[2:] == ["VNI 7 has no point"]


# --- where it cannot begin ----------------------------------------------------------------------------------


async def test_without_its_store_a_manager_does_not_begin(tmp_path):
    (tmp_path / "file").write_text("")
    config = config_of(f'store = "sqlite://{tmp_path}/file/manager.db"\n')
    with pytest.raises(StoreError, match=r"file/manager\.db"):
        await Managing(config, tmp_path, Bus(lambda: 0.0)).__aenter__()


async def test_without_its_address_a_manager_does_not_begin_and_gives_its_store_back(tmp_path):
    url = f"sqlite://{tmp_path}/manager.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = config_of(f'listen = "127.0.0.1:{port}"\nstore = "{url}"\n')
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await Managing(config, tmp_path, Bus(lambda: 0.0)).__aenter__()
    await (await open_store(url)).close()  # of one at a time


async def test_where_it_ends_a_manager_gives_its_store_back():
    shared = Shared()
    async with managed(shared) as far:
        far.come(1, TOR1, G)
        await far.begun(1)
    assert shared._clients == []
    assert [key for key in shared.items if key.startswith("live/")] == []


async def test_a_config_without_a_manager_is_none(tmp_path):
    config = parse('[device]\naddress = "10.0.0.1"\n[[port]]\nname = "p1"\nfaces = "nve"\n').config
    assert config is not None
    with pytest.raises(ValueError, match=r"without \[manager\]"):
        Managing(config, tmp_path, Bus(lambda: 0.0))


async def test_the_bounds_of_the_config_are_those_of_the_manager():
    text = (
        "hold_s = 9\nmax_nodes = 2\nmax_groups = 3\nmax_groups_per_node = 4\nmax_devices_per_group = 5\n"
        'mode = "point"\nthreshold = 9\nhysteresis = 2\ntree = true\n'
        '[[manager.point]]\naddress = "10.0.0.110"\nvnis = ["100-199"]\ngroups = ["239.1.1.100"]\n'
    )
    table = config_of(text).manager
    assert table is not None
    bounds = m._settings(table)
    assert (bounds.hold_s, bounds.max_nodes, bounds.max_groups) == (9, 2, 3)
    assert (bounds.max_groups_per_node, bounds.max_devices_per_group) == (4, 5)
    ways = m._topology(table)
    assert (ways.mode, ways.threshold, ways.hysteresis, ways.tree) == ("point", 9, 2, True)
    assert ways.max_devices_per_group == 5
    assert [(one.address, one.vnis, one.groups) for one in ways.points] == [(P, ((100, 199),), (G,))]
    async with managed(config=config_of(text)) as far:
        assert far.server.limits.max_sessions == 2
        assert far.server.listen == "127.0.0.1:9470"
