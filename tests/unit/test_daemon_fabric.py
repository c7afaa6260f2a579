"""What managers say to the roles of a box, carried out: the publisher, whom the layout knows, and the groups
over a start."""

import os
import time
from ipaddress import ip_address

import pytest

from ctrl.daemon import fabric as f
from ctrl.daemon import sessions
from ctrl.daemon.reach import Told
from ctrl.membership import Origin
from ctrl.planner import Receivers
from ctrl.rpc.messages import Ack, Group, Groups, Hello, Moved
from ctrl.store.held import HeldStore, Update
from ctrl.topology.entry import Node
from fastpath.model import Scope
from tests.unit.driven import going, rounds, until
from tests.unit.instructed_box import (
    ALONE,
    BLUE,
    BOTH,
    DEVICE_TABLE,
    GREEN,
    MAPPED,
    NVE,
    POINT_TABLE,
    PORTS,
    A,
    B,
    Box,
    C,
    G,
    H,
    J,
    P,
    Q,
    at_point,
    config_of,
    mesh,
)

pytestmark = pytest.mark.asyncio


# --- what managers say --------------------------------------------------------------------------------------


async def test_d8_the_peers_of_a_group_go_to_the_publisher_and_into_the_layout():
    """D8: instructions are installed; D12: who is told as a peer is taken from."""
    box = Box()
    box.begin()
    assert box.tell(mesh(G, B, accept=(P,)), is_full=True) == ["apply"]
    assert box.peers() == {G: (B,)}
    assert box.fabric.told == Told(frozenset({B, P}))
    assert box.tell(mesh(G, B, C)) == ["apply"]
    assert box.peers() == {G: (B, C)}
    assert box.fabric.told == Told(frozenset({B, C}))
    assert box.tell(removed=(G.packed,)) == ["apply"]
    assert box.peers() == {}
    assert box.fabric.told == Told()


async def test_a_word_that_names_nobody_new_leaves_the_layout_alone():
    box = Box()
    box.begin()
    box.tell(mesh(G, B, C), is_full=True)
    assert box.tell(mesh(H, C)) == ["settle"]
    assert box.peers() == {G: (B, C), H: (C,)}
    assert box.tell(mesh(H, B, C), removed=(G.packed,)) == ["settle"]
    assert box.peers() == {H: (B, C)}


async def test_only_peers_that_were_not_there_before_are_waited_for():
    """M12: an Ack says that copies arrive."""
    box = Box()
    async with going(box.side().run(box.client, None)):
        box.begin()
        for entry in (mesh(G, B), mesh(H, B), mesh(G, B, C)):
            box.tell(entry)
            await rounds()
    assert box.waited_for == [{B}, {C}]
    assert box.client.said(Ack) == [Ack(1), Ack(2), Ack(3)]


async def test_r1_the_lists_of_a_point_and_what_it_serves_alone_come_from_the_manager():
    """R1: lists; R7: the ranges that are another point's."""
    box = Box(PORTS + POINT_TABLE.format(state=""))
    box.begin(Scope.REPLICATOR)
    assert box.fabric.told == Told()
    how = {"scope": Scope.REPLICATOR}
    assert box.tell(at_point(G, B, C), vnis=((7, 9),), is_full=True, **how) == ["apply"]
    assert box.point_list() == {B, C}
    assert box.fabric.told == Told(point=frozenset({B, C}), vnis=((7, 9),))
    assert box.tell(vnis=((8, 9),), **how) == ["apply"]
    assert box.fabric.told.vnis == ((8, 9),)
    assert box.tell(removed=(G.packed,), **how) == ["apply"]
    assert box.point_list() is None
    assert box.peers() == {}


async def test_r8_what_a_device_is_told_is_not_the_word_of_the_point_beside_it():
    box = Box(BOTH)
    for scope in (Scope.DEVICE, Scope.REPLICATOR):
        box.begin(scope)
    box.tell(mesh(G, B), is_full=True)
    box.tell(at_point(G, A, C), scope=Scope.REPLICATOR, is_full=True)
    assert box.peers() == {G: (B,)}
    assert box.point_list() == {A, C}
    assert box.fabric.told == Told(frozenset({B}), frozenset({A, C}))
    assert [one.node.name for one in box.client.said(Hello)] == ["tor1", "tor1.point"]


async def test_d19_nves_that_moved_are_asked():
    box = Box()
    box.begin()
    box.side().heard(Moved((ip_address("10.1.1.2").packed, ip_address("10.1.1.3").packed)))
    assert box.asked.nves == [ip_address("10.1.1.2"), ip_address("10.1.1.3")]
    box.tell(mesh(G, B))
    assert len(box.asked.nves) == 2, "once"


async def test_what_comes_into_force_is_told_to_who_watches():
    box = Box()
    box.begin()
    box.tell(mesh(G, B), is_full=True)
    with box.events.subscribe(["instructions"]) as heard:
        box.tell(mesh(G, B, C))
        box.tell(removed=(G.packed,))
        rows = await heard.read(0)
    assert [(row["event"], row["group"], row["peers"]) for row in rows] == [
        ("applied", str(G), [str(B), str(C)]),
        ("ended", str(G), []),
    ]


async def test_a_box_that_no_manager_instructs_has_no_sessions(tmp_path):
    box = Box(PORTS + '[device]\naddress = "10.0.0.1"\n')
    assert box.fabric.sides == []
    box.join(G)
    await box.fabric.run(tmp_path)


# --- second information -------------------------------------------------------------------------------------


async def test_d3_the_first_member_of_a_group_and_the_last_are_told_and_no_other():
    other = NVE._replace(port=1)
    box = Box()
    box.begin()
    n_said = []
    for step in (box.join, box.leave):
        for who in (NVE, other):
            step(G, who)
            await rounds()
            n_said.append(len(box.client.said(Groups)))
    assert n_said == [2, 2, 2, 3]
    _, joined, left = box.client.said(Groups)
    assert (joined.added, left.gone) == ((Group(G.packed),), (G.packed,))


@pytest.mark.parametrize(
    ("networks", "vnis", "vsids"),
    [
        (BLUE, (100,), ()),
        (GREEN, (5000,), (4999,)),
        (BLUE + GREEN, (100, 5000), (4999,)),
        (MAPPED, (200,), ()),
        (BLUE.replace(".100", ".101"), (), ()),
    ],
)
async def test_m13_with_a_group_the_networks_that_it_carries_are_told(networks, vnis, vsids):
    box = Box(ALONE + networks)
    box.join(G)
    assert box.side().instructed.groups == {G.packed: Group(G.packed, vnis, vsids)}


async def test_m13_after_a_reload_groups_are_told_with_the_networks_that_they_carry_now():
    box = Box(ALONE + BLUE)
    box.begin()
    box.join(G)
    box.join(H)
    await rounds()
    n_said = len(box.client.said(Groups))
    box.fabric.configure(config_of(ALONE + BLUE + "[membership]\nrobustness = 3\n"))
    await rounds()
    assert len(box.client.said(Groups)) == n_said
    box.fabric.configure(config_of(ALONE + GREEN))
    await rounds()
    assert [one.added for one in box.client.said(Groups)[n_said:]] == [(Group(G.packed, (5000,), (4999,)),)]


# --- an NVE -------------------------------------------------------------------------------------------------

NVE_TABLE = '[nve]\naddress = "10.0.0.3"\nmanager = ["127.0.0.1:9470"]\nstate = "{state}"\n'
VM = '[[port]]\nname = "vm"\nfaces = "vm"\nnetwork = "blue"\n'
HOST = PORTS + VM + BLUE + NVE_TABLE


async def test_an_nve_is_told_whom_to_send_to_group_by_group():
    """Framework 3.2: another layout each time, as receivers are of the NVE's own lists."""
    box = Box(HOST.format(state=""))
    box.begin(Scope.NVE)
    how = {"scope": Scope.NVE}
    assert box.tell(mesh(G, A, B, accept=(P,)), is_full=True, **how) == ["apply"]
    assert box.fabric.told == Told(nve=frozenset({A, B, P}), receivers={G: Receivers((A, B))})
    assert box.tell(mesh(H, B), **how) == ["apply"]
    assert box.tell(mesh(G, A), **how) == ["apply"]
    assert box.fabric.told.receivers == {G: Receivers((A,)), H: Receivers((B,))}
    assert box.tell(removed=(G.packed,), **how) == ["apply"]
    assert box.fabric.told == Told(nve=frozenset({B}), receivers={H: Receivers((B,))})
    assert box.peers() == {}, "no device's"


async def test_n3_n5_the_groups_of_an_nve_are_those_of_its_networks_with_vms():
    box = Box(HOST.format(state="") + GREEN)
    box.begin(Scope.NVE)
    n_said = []
    for groups in ((), (G, H), (G, H), (H,), ()):
        box.fabric.tunnelled(groups)
        await rounds()
        n_said.append(len(box.client.said(Groups)))
    assert n_said == [1, 2, 2, 3, 4]
    _, joined, one_left, left = box.client.said(Groups)
    assert joined.added == (Group(G.packed, (100, 5000), (4999,)), Group(H.packed))
    assert (one_left.gone, left.gone) == ((G.packed,), (H.packed,))
    box.fabric.tunnelled((G,))
    box.fabric.configure(config_of(HOST.format(state="")))
    box.fabric.tunnelled((G,))
    await rounds()
    assert box.client.said(Groups)[-1].added == (Group(G.packed, (100,), ()),), "M13: after a reload"


async def test_what_an_nve_was_in_and_sent_to_counts_until_its_vms_had_the_time_to_come_back(
    tmp_path, no_grace, serving
):
    """M9."""
    path = tmp_path / "tor1.db"
    keep(path, G, H, entries=[mesh(G, B)])
    box = Box(HOST.format(state=path) + no_grace)
    assert box.fabric.told == Told(nve=frozenset({B}), receivers={G: Receivers((B,))})
    box.fabric.restore([0])
    assert wanting(box) == set()
    box.fabric.tunnelled([])
    box.fabric.tunnelled([G])
    assert set(map(ip_address, box.side(Scope.NVE).instructed.groups)) == {G, H}
    async with serving(box, tmp_path):
        await until(lambda: len(box.side(Scope.NVE).instructed.groups) == 1)


async def test_an_nve_is_a_device_that_rewrites_and_each_role_of_a_box_a_node_of_its_own():
    def nodes(text):
        config = config_of(text.replace("{state}", ""))
        return {scope: f.node_of(config, scope).name for scope, _ in f._instructed(config)}

    alone = f.node_of(config_of(HOST.format(state="")), Scope.NVE)
    assert alone == Node("tor1", "device", C.packed, alone.generation, "rewrite", is_nve=True)
    device, point = DEVICE_TABLE.format(state="/a"), POINT_TABLE.format(state="/b")
    assert nodes(HOST + device + point) == {
        Scope.DEVICE: "tor1",
        Scope.REPLICATOR: "tor1.point",
        Scope.NVE: "tor1.nve",
    }
    assert nodes(HOST + point) == {Scope.REPLICATOR: "tor1.point", Scope.NVE: "tor1"}
    box = Box(HOST.format(state=""))
    assert [side.role for side in box.fabric.sides] == ["nve"]


# --- over a start -------------------------------------------------------------------------------------------


def keep(path, *groups, entries=(), node="tor1", role="device"):
    """Leave behind what a box had that was killed."""
    store = HeldStore(path, node, role)
    store.load()
    held = {group.packed: Group(group.packed) for group in groups}
    store.write(Update("s", 5, (), {entry.key: entry for entry in entries}, held, is_all=True))
    store.close()
    return DEVICE_TABLE.format(state=path)


@pytest.fixture
def no_grace(monkeypatch):
    """NVEs have had their time when the sessions begin."""
    monkeypatch.setattr(f, "GRACE_S", -2.0)
    return "[membership]\nstartup_response_interval_s = 1.0\nrobustness = 2\n"


@pytest.fixture
def serving(monkeypatch):
    """Have the sessions of a box run, with nobody at the other end."""

    def run(box, folder):
        monkeypatch.setattr(sessions, "client_of", lambda *_: box.client)
        monkeypatch.setattr(sessions, "probes_of", lambda *_: None)
        return going(box.fabric.run(folder))

    return run


def wanting(box):
    """Who wants what by the word of the box itself."""
    return {(group, who.port) for group, who in box.membership.of_origin(Origin.STORED)}


async def test_grpc_says_nothing_of_its_own_where_the_box_is_no_manager(tmp_path, serving, monkeypatch):
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    async with serving(Box(PORTS + DEVICE_TABLE.format(state=tmp_path / "state")), tmp_path):
        assert os.environ["GRPC_VERBOSITY"] == "NONE"


async def test_m9_what_was_in_force_is_in_force_before_anybody_is_heard(tmp_path):
    """M9, M10: a box that starts anew forwards by its last good instructions."""
    box = Box(PORTS + keep(tmp_path / "tor1.db", G, entries=[mesh(G, B)]))
    assert box.peers() == {G: (B,)}
    assert box.fabric.told == Told(frozenset({B}))
    box.begin()
    assert box.client.said(Hello)[0].revision == 5


async def test_ports_with_nves_want_what_the_box_was_in_until_these_had_the_time_to_say_so(
    tmp_path, no_grace, serving
):
    """M9: who joined meanwhile stays, and what nobody joined is left."""
    box = Box(PORTS + keep(tmp_path / "tor1.db", G, H) + no_grace)
    box.fabric.restore([0, 3])
    assert wanting(box) == {(G, 0), (G, 3), (H, 0), (H, 3)}
    assert [(event.group, event.who.port, event.is_first) for event in box.told] == [
        *((G, 0, True), (G, 3, False)),
        *((H, 0, True), (H, 3, False)),
    ]
    box.join(G)
    box.join(J)
    box.leave(J)
    box.join(J)
    box.begin()
    assert [group.key for group in box.client.said(Groups)[0].added] == [G.packed, H.packed, J.packed]
    async with serving(box, tmp_path):
        await until(lambda: not wanting(box))
    assert set(box.membership.groups()) == box.groups() == {G, J}
    assert box.client.said(Groups)[-1].gone == (H.packed,)
    assert "settle" in box.done, "the lists follow"
    assert [event.group for event in box.told if event.is_last] == [H], "who watches hears of it"


async def test_what_a_device_was_in_counts_for_as_long_without_a_port_for_it(tmp_path, no_grace, serving):
    box = Box(PORTS + keep(tmp_path / "tor1.db", G) + no_grace)
    box.fabric.restore([])
    assert box.groups() == {G}
    async with serving(box, tmp_path):
        await until(lambda: not box.groups())


async def test_a_reload_in_that_time_does_not_say_that_anybody_wants_what_nobody_joined(
    tmp_path, no_grace, serving
):
    box = Box(PORTS + keep(tmp_path / "tor1.db", G, H) + no_grace)
    box.fabric.restore([0])
    box.join(H)
    box.fabric.configure(config_of(ALONE + GREEN))
    async with serving(box, tmp_path):
        await until(lambda: not wanting(box))
        await rounds()
    assert box.groups() == set(box.membership.groups()) == {H}


async def test_a_point_wants_nothing_for_itself(tmp_path):
    text = keep(tmp_path / "p1.db", G, entries=[at_point(G, B)], node="p1", role="replicator")
    text = text.replace("[device]", "[replicator]").replace("10.0.0.1", "10.0.0.110")
    box = Box(PORTS + text, node="p1")
    assert box.point_list() == {B}
    box.fabric.restore([0])
    assert wanting(box) == set()


async def test_where_nothing_can_be_kept_a_box_starts_with_nothing_and_says_so(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    box = Box(PORTS + DEVICE_TABLE.format(state=tmp_path / "file" / "tor1.db"))
    assert box.side().instructed.entries == {}
    (said,) = caplog.messages
    assert said.startswith("instructions are not kept why=")
    assert str(tmp_path / "file") in said


# --- who we are ---------------------------------------------------------------------------------------------


async def test_a_point_beside_a_device_has_a_name_of_its_own():
    both, alone = config_of(BOTH), config_of(PORTS + POINT_TABLE.format(state=""), node="p1")
    device, beside = f.node_of(both, Scope.DEVICE), f.node_of(both, Scope.REPLICATOR)
    assert device == Node("tor1", "device", A.packed, device.generation, "nested")
    vnis = ((7, 7), (100, 199))
    assert beside == Node("tor1.point", "replicator", P.packed, beside.generation, vnis=vnis)
    assert f.node_of(alone, Scope.REPLICATOR).name == "p1"
    with pytest.raises(ValueError, match="a box without REPLICATOR"):
        f.node_of(config_of(ALONE), Scope.REPLICATOR)


async def test_a_node_says_how_it_is_reached_and_how_its_copies_travel():
    text = BOTH.replace('"10.0.0.110"\n', '"10.0.0.110"\nreplicate = "10.0.0.111"\n')
    text = text.replace('"10.0.0.1"\n', '"10.0.0.1"\ntunnel = "rewrite"\n')
    assert f.node_of(config_of(text), Scope.REPLICATOR).replicate == Q.packed
    assert f.node_of(config_of(text), Scope.DEVICE).tunnel == "rewrite"


async def test_each_start_is_a_newer_generation(monkeypatch):
    now_ns = 1_800_000_000_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    first = f.node_of(config_of(ALONE), Scope.DEVICE).generation
    now_ns += 1_000_000
    assert f.node_of(config_of(ALONE), Scope.DEVICE).generation == first + 1
