"""What a node holds, on its own disk: written in one piece, read back the same, never half believed."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.rpc.messages import Group
from ctrl.store.held import Held, HeldStore, Update
from ctrl.topology.entry import MESH, POINT, Entry, aware_of, tenant_key
from tests.house.tree import ROOT
from tests.unit.instructed import P1, P2, address, device, key, mesh, put

TENANTS = tenant_key(key(1), 5000, address("ff35::1"))
ALL = Update(
    "s",
    900,
    ((5000, 5999), (7000, 7000)),
    {
        key(1): mesh(1, 2, 3),
        key(2): Entry(key(2), POINT, (P1,), (P2,), (P1, device(9)), (device(4),), (5000, 5001), (6000,)),
        address("ff0e::1:2"): Entry(address("ff0e::1:2"), MESH, (address("2001:db8::5"),)),
        key(3): mesh(3),
        TENANTS: mesh(1, 2, 3)._replace(key=TENANTS, vnis=(5000,)),
    },
    {
        key(1): Group(key(1), (5000, 5001), (6000,)),
        key(2): Group(key(2)),
        TENANTS: Group(TENANTS, (5000,)),
        aware_of(TENANTS): Group(aware_of(TENANTS)),
    },
    is_all=True,
)


def opened(path: Path, node: str = "tor1", role: str = "device") -> tuple[HeldStore, Held]:
    store = HeldStore(path, node, role)
    return store, store.load()


def written(path: Path, *updates: Update) -> Held:
    """Write these to a file and close it; what is then on disk."""
    store, held = opened(path)
    for update in updates:
        store.write(update)
        held = put(held, update)
    store.close()
    return held


def read(path: Path) -> Held:
    store, held = opened(path)
    store.close()
    return held


def test_a_new_file_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "deep" / "tor1.db") == Held()
    assert read(tmp_path / "deep" / "tor1.db") == Held()


def test_what_was_written_is_read_back_the_same(tmp_path: Path) -> None:
    """M9, M10: each field of each entry, and the second information."""
    expected = written(tmp_path / "a.db", ALL)
    held = read(tmp_path / "a.db")
    assert held == expected
    assert held.entries == ALL.entries
    assert list(held.entries[key(2)].backup) == [P2]


def test_an_update_changes_what_it_names_and_removes_what_is_gone(tmp_path: Path) -> None:
    update = Update("s", 901, (), {key(1): mesh(1, 8), key(2): None, key(7): mesh(7, 2)}, {key(1): None})
    written(tmp_path / "a.db", ALL, update)
    held = read(tmp_path / "a.db")
    assert set(held.entries) == {key(1), key(3), key(7), address("ff0e::1:2"), TENANTS}
    assert held.entries[key(1)] == mesh(1, 8)
    assert held.groups == {one: group for one, group in ALL.groups.items() if one != key(1)}
    assert (held.store, held.revision, held.vnis) == ("s", 901, ())


def test_an_update_of_everything_forgets_the_rest(tmp_path: Path) -> None:
    written(tmp_path / "a.db", ALL, Update("t", 1, (), {key(9): mesh(9, 2)}, {}, is_all=True))
    assert read(tmp_path / "a.db") == Held("t", 1, {key(9): mesh(9, 2)}, {}, ())


updates = st.builds(
    Update,
    st.sampled_from(["", "s", "t"]),
    st.integers(0, 2**40),
    st.sampled_from([(), ((5000, 5999),)]),
    st.dictionaries(
        st.integers(1, 6).map(key), st.none() | st.lists(st.integers(2, 9), unique=True).map(tuple)
    ).map(lambda said: {one: ns if ns is None else mesh(one[3], *ns) for one, ns in said.items()}),
    st.dictionaries(st.integers(1, 6).map(key), st.none() | st.integers(0, 3)).map(
        lambda said: {one: n if n is None else Group(one, (n,)) for one, n in said.items()}
    ),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(said=st.lists(updates, max_size=6))
def test_any_updates_are_read_back_as_their_sum(
    said: list[Update], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("held") / "a.db"
    expected = written(path, *said)
    assert read(path) == expected


@pytest.mark.parametrize(("node", "role"), [("tor2", "device"), ("tor1", "replicator")])
def test_the_file_of_another_node_or_role_is_not_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, node: str, role: str
) -> None:
    written(tmp_path / "a.db", ALL)
    with caplog.at_level(logging.WARNING):
        store, held = opened(tmp_path / "a.db", node, role)
    assert held == Held()
    assert "of='device tor1'" in caplog.text
    store.write(Update("s", 3, (), {key(9): mesh(9, 2)}, {}))
    store.close()
    store, held = opened(tmp_path / "a.db", node, role)
    store.close()
    assert held == Held("s", 3, {key(9): mesh(9, 2)})


def test_a_file_that_another_process_has_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(OSError, match=r"a\.db: what the node holds cannot be kept there: .*locked"):
            read(path)
    finally:
        holder.kill()
        holder.communicate()
    assert read(path) == Held()
    assert not path.with_name("a.db.damaged").exists()


HOLD = """
import sys; from pathlib import Path; from ctrl.store.held import HeldStore
store = HeldStore(Path(sys.argv[1]), "tor1", "device"); store.load()
print("held", flush=True); sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("where", "says"), [("file/a.db", "its directory cannot be made"), ("folder", "cannot be kept there")]
)
def test_a_place_where_nothing_can_be_kept_is_a_sentence(tmp_path: Path, where: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"{where}: .*{says}"):
        read(tmp_path / where)


def test_a_write_that_fails_is_a_sentence_and_all_can_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store, _ = opened(path)
    store.write(ALL)
    connection = store._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 1")
    many = {key(n): mesh(n, *range(2, 200)) for n in range(400)}
    large = Update("s", 901, (), many, {})
    with pytest.raises(OSError, match=r"a\.db: what the node holds cannot be written: .*full"):
        store.write(large)
    with pytest.raises(OSError, match="has to be written again"):
        store.write(large)
    store.write(Update("s", 901, (), many, {}, is_all=True))
    store.close()
    assert read(path) == Held("s", 901, many)


def test_a_file_that_is_damaged_while_it_is_written_is_set_aside_by_the_next_write_of_all(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    written(path, ALL)
    store, _ = opened(path)
    store.close()
    path.write_bytes(b"not a database at all, but long enough to be taken for one by nobody" * 100)
    store.write(ALL)
    store.close()
    assert path.with_name("a.db.damaged").read_bytes().startswith(b"not a database")
    assert read(path).entries == ALL.entries


WRITE = """
import sys; from pathlib import Path; from ctrl.store.held import HeldStore, Update
from tests.unit.instructed import key, mesh
store = HeldStore(Path(sys.argv[1]), "tor1", "device"); held = store.load()
n = held.revision
while True:
    n += 1
    store.write(Update("s", n, (), {key(one): mesh(one, 2 + n) for one in range(20)}, {}))
    print(n, flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_one_state_or_the_next(tmp_path: Path) -> None:
    """M10: at any moment, again and again on the same file; nothing that was written is lost."""
    path = tmp_path / "a.db"
    revision = 0
    for lines in (1, 40, 7):
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
        try:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(lines)]
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
        held = read(path)
        assert said[0] == revision + 1
        assert held.revision >= said[-1]
        assert held.entries == {key(n): mesh(n, 2 + held.revision) for n in range(20)}
        revision = held.revision
    assert not path.with_name("a.db.damaged").exists()


CUT = """
import os, signal, sys; from pathlib import Path; from ctrl.store.held import HeldStore, Update
from tests.unit.instructed import key, mesh

class Cut(dict):
    def __iter__(self):
        os.kill(os.getpid(), signal.SIGKILL)

store = HeldStore(Path(sys.argv[1]), "tor1", "device"); store.load()
store.write(Update("s", 901, (), {key(1): mesh(1, 8), key(2): None, key(7): mesh(7, 2)}, Cut()))
"""


def test_a_process_killed_between_two_rows_has_written_neither(tmp_path: Path) -> None:
    """M10: one transaction."""
    expected = written(tmp_path / "a.db", ALL)
    run = subprocess.run([sys.executable, "-c", CUT, str(tmp_path / "a.db")], cwd=ROOT, check=False)
    assert run.returncode == -signal.SIGKILL
    assert read(tmp_path / "a.db") == expected


def test_stored_groups_are_read_without_waiting_for_grpc(tmp_path: Path) -> None:
    """M10, issue 5: a box forwards its stored groups before gRPC is imported."""
    written(tmp_path / "a.db", ALL)
    code = """
import sys; from pathlib import Path; from ctrl.roles.instructed import Instructed
from ctrl.roles.tunnels import Bounds; from ctrl.store.held import HeldStore
from ctrl.topology.entry import Node
held = HeldStore(Path(sys.argv[1]), "tor1", "device").load()
node = Instructed(Node("tor1", "device", bytes((10, 1, 0, 1)), 1), Bounds(), held)
heavy = {"grpc", "google", "aiohttp", "pydantic", "numpy", "asyncio"}
print(len(node.entries), sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "4 []\n"  # an entry of IPv6 is refused by a node of IPv4


def test_the_file_can_be_read_by_people(tmp_path: Path) -> None:
    written(tmp_path / "a.db", ALL)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        ((value,),) = connection.execute("SELECT value FROM held WHERE kind = 1 AND key = ?", (key(1),))
    connection.close()
    assert value == b'{"via":"mesh","peers":["0a010002","0a010003"]}'
