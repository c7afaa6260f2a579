"""A file of held tunnels that was cut short or changed by a byte: read as it was written, or set aside."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest

from ctrl.store.held import Held, HeldStore, Update
from tests.unit.instructed import device, key, mesh, put
from tests.unit.test_held import ALL, opened, read, written

MORE = Update("s", 901, (), {key(n): mesh(n, *range(2, 12)) for n in range(100, 160)}, {})
N_SAMPLES = 80


def damaged(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> Held | None:
    """Put this in the place of the file and load it; None: it was set aside, whole, with one warning, and a
    new one is in use."""
    aside = path.with_name(path.name + ".damaged")
    for stale in path.parent.glob("*"):
        stale.unlink()
    path.write_bytes(content)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        held = read(path)
    if not aside.exists():
        assert caplog.records == []
        return held
    assert aside.read_bytes() == content
    assert held == Held()
    (record,) = caplog.records
    assert "damaged=" in record.getMessage()
    store, _ = opened(path)
    store.write(ALL)
    store.close()
    assert read(path).entries == ALL.entries
    return None


@pytest.fixture
def sound(tmp_path: Path) -> tuple[bytes, Held]:
    """A file of several pages, closed, and what it holds."""
    (tmp_path / "sound").mkdir()
    held = written(tmp_path / "sound" / "a.db", ALL, MORE)
    return (tmp_path / "sound" / "a.db").read_bytes(), held


def test_a_file_cut_short_is_set_aside(
    tmp_path: Path, sound: tuple[bytes, Held], caplog: pytest.LogCaptureFixture
) -> None:
    """Of less than a page SQLite makes a new one: nothing is held then either."""
    content, held = sound
    (tmp_path / "b").mkdir()
    path = tmp_path / "b" / "a.db"
    assert damaged(path, content, caplog) == held
    for size in (0, 1, 15, 16, 99, 100):
        assert damaged(path, content[:size], caplog) in (None, Held()), size
    sizes = Random(1).sample(range(512, len(content)), N_SAMPLES // 2)
    for size in (511, 512, 4095, 4096, 8192, len(content) - 1, *sizes):
        assert damaged(path, content[:size], caplog) is None, size


def test_a_byte_changed_anywhere_is_never_believed(
    tmp_path: Path, sound: tuple[bytes, Held], caplog: pytest.LogCaptureFixture
) -> None:
    """It matters not, or the file is set aside: never another tunnel, never one less."""
    content, held = sound
    (tmp_path / "b").mkdir()
    random = Random(2)
    places = [*range(0, 100, 3), *random.sample(range(100, len(content)), N_SAMPLES)]
    outcomes = []
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << random.randrange(8)
        outcomes.append(damaged(tmp_path / "b" / "a.db", bytes(changed), caplog))
        assert outcomes[-1] in (None, held), place
    assert None in outcomes
    assert held in outcomes


def test_an_address_changed_by_one_digit_is_found(
    tmp_path: Path, sound: tuple[bytes, Held], caplog: pytest.LogCaptureFixture
) -> None:
    content, _ = sound
    (tmp_path / "b").mkdir()
    ours = device(11).hex().encode()
    assert content.count(ours) >= 60
    changed = content.replace(ours, device(12).hex().encode(), 1)
    assert damaged(tmp_path / "b" / "a.db", changed, caplog) is None


@pytest.mark.parametrize("what", ["kind = 1 AND key = x'ef010064'", "kind = 2", "kind = 0"])
def test_a_row_that_is_missing_is_found(
    tmp_path: Path, sound: tuple[bytes, Held], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Each row that is left is sound; all together they are not what was written."""
    path = tmp_path / "sound" / "a.db"
    with sqlite3.connect(path) as connection:
        assert connection.execute(f"DELETE FROM held WHERE {what}").rowcount > 0
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    (tmp_path / "b").mkdir()
    assert damaged(tmp_path / "b" / "a.db", path.read_bytes(), caplog) is None


def test_a_log_left_by_a_killed_process_that_is_damaged_gives_a_state_that_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What of the log is sound counts, transaction by transaction."""
    (tmp_path / "live").mkdir()
    store, held = opened(tmp_path / "live" / "a.db")
    states = [held]
    for n in range(12):
        update = Update("s", n, (), {key(n): mesh(n, 2 + n), key(0): mesh(0, 90 + n)}, {})
        store.write(update)
        states.append(put(states[-1], update))
    database, log = ((tmp_path / "live" / name).read_bytes() for name in ("a.db", "a.db-wal"))
    store.close()
    random = Random(3)
    seen = set()
    for place in random.sample(range(len(log)), N_SAMPLES):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        (tmp_path / "b").mkdir()
        path = tmp_path / "b" / "a.db"
        path.write_bytes(database)
        changed = bytearray(log)
        changed[place] ^= 1 << random.randrange(8)
        path.with_name("a.db-wal").write_bytes(changed if random.random() < 0.5 else log[:place])
        found = read(path)
        assert found in states, place
        seen.add(states.index(found))
    assert len(seen) > 5


def test_the_file_set_aside_before_makes_way_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    for content in (b"x" * 1000, b"y" * 1000):
        path.write_bytes(content)
        store = HeldStore(path, "tor1", "device")
        assert store.load() == Held()
        store.close()
        assert path.with_name("a.db.damaged").read_bytes() == content
