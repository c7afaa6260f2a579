"""One port says whatever it likes, as fast as it can: the others neither lose a copy nor wait, nothing grows,
and everything is counted.

Times are printed, never judged: `bench/bench_joins.py` does that.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator

import pytest

from ctrl.lab.namespaces import missing
from ctrl.protocols.messages import Kind, Record
from ctrl.protocols.wire import checksum
from tests.system.crowd import (
    FIRST_OTHER,
    GROUP,
    Crowd,
    data,
    first_copies,
    joins,
    quantile,
    report,
    sent,
)
from tests.system.lab import Lab, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
PER = 100
"""Records a report."""
LIMIT = 4096
"""Groups a port, by default."""
ROGUE, SENDER, FIRST = 1, 2, 3
"""Places of the one who floods, of the one who sends data, and of the first of all others."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("abuse") as made:
        yield made


def flooded(
    crowd: Crowd, frames: list[bytes], rate: float, seconds: float = 0, data_s: float = 1.0
) -> tuple[int, list[float]]:
    """Flood from one port while another sends data and the rest join: frames sent, and ms until each copy.

    No copy of the data may be lost, whatever the flood is.
    """
    others = range(FIRST, crowd.n + 1)
    for number in others:
        crowd.join(number, int(GROUP))
    wait_for(lambda: len(crowd.fastpath.show("members")) == len(others), "the others have joined")
    ears = {number: crowd.ear(number, int(GROUP), 32) for number in others}
    flood = crowd.flood(ROGUE, frames, rate, seconds)
    stream = crowd.flood(SENDER, [data(SENDER, int(GROUP))], 500, data_s)
    found: list[float] = []
    while len(found) < 100 or flood.poll() is None:
        found += first_copies(crowd, SENDER, others, len(found), 20)
    n_frames, n_data = sent(flood), sent(stream)
    crowd.settled()
    assert n_data == 500 * data_s
    assert {number: ear.count() for number, ear in ears.items()} == dict.fromkeys(others, n_data)
    p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
    print(
        f"{len(found)} joins meanwhile: ms to the first copy p50 {p50:.1f} p99 {p99:.1f} max {max(found):.1f}"
    )
    return n_frames, found


def expect_joins_accounted_for(crowd: Crowd, n_frames: int, n_others: int) -> None:
    """Assert that the bound holds exactly, and that each record was accepted or refused by name."""
    counts = crowd.settled()
    n_heard = counts["punted"] - n_others
    assert n_heard == n_frames - counts["punt_limit"] - counts["punt_full"] - counts["ring_full"]
    assert crowd.members(ROGUE) == LIMIT
    assert counts["port_groups_full"] == PER * (n_heard - counts["control_busy"]) - LIMIT


def test_too_many_joins_of_one_nve_end_at_its_bound_and_each_is_counted(lab: Lab) -> None:
    crowd = Crowd(lab, 6)
    before = crowd.memory()
    n_frames, found = flooded(crowd, joins(ROGUE, 100_000, PER), 1500)
    assert n_frames == 1000
    expect_joins_accounted_for(crowd, n_frames, len(found) + 4)
    assert crowd.memory("VmHWM") - before < 64
    said = crowd.fastpath.log.splitlines()
    assert len(said) < 150, "not a line a join"
    assert any("drops port_groups_full=" in line for line in said)


@pytest.mark.slow
def test_a_million_joins_of_one_nve_harm_none_of_63_others(lab: Lab) -> None:
    crowd = Crowd(lab, 64)
    before = crowd.memory()
    n_frames, found = flooded(crowd, joins(ROGUE, 1_000_000, PER), 3000, data_s=4)
    assert n_frames == 10_000
    expect_joins_accounted_for(crowd, n_frames, len(found) + 62)
    grown = crowd.memory("VmHWM") - before
    print(f"{grown:.1f} MiB more")
    assert grown < 64


@pytest.mark.slow
def test_fifty_thousand_igmp_frames_a_second_lose_no_data_copy_and_the_limit_counts_them(lab: Lab) -> None:
    crowd = Crowd(lab, 16)
    n_frames, found = flooded(crowd, joins(ROGUE, 1000, 1), 50_000, seconds=4, data_s=4)
    counts = crowd.settled()
    n_heard = counts["punted"] - len(found) - 14
    assert n_heard + counts["punt_limit"] + counts["punt_full"] + counts["ring_full"] == n_frames == 200_000
    assert counts["punt_limit"] > 0
    assert crowd.members(ROGUE) == 1000


def malformed(chance: random.Random) -> dict[str, list[bytes]]:
    """Frames of hosts that err, by the name of the refusal."""
    good = report(ROGUE, [Record(Kind.TO_EX, FIRST_OTHER + n, (n, 7)) for n in range(1, 9)])
    head, message = good[:38], good[38:]

    def framed(payload: bytes) -> bytes:
        """With the right length and sum: what is wrong is inside."""
        payload = payload[:2] + bytes(2) + payload[4:]
        payload = payload[:2] + checksum(payload).to_bytes(2, "big") + payload[4:]
        ip = head[14:16] + (24 + len(payload)).to_bytes(2, "big") + head[18:24] + bytes(2) + head[26:]
        return head[:14] + ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:] + payload

    def flipped() -> bytes:
        at = chance.randrange(len(message) * 8)
        return head + (int.from_bytes(message, "big") ^ 1 << at).to_bytes(len(message), "big")

    return {
        "bad_control_checksum": [flipped() for _ in range(200)],
        "malformed_control": [framed(message[:n]) for n in range(8, len(message))],
        "unknown_control": [framed(bytes((kind,)) + message[1:]) for kind in (0, 0x10, 0x13, 0x55, 0xFF)],
        "zero_mac": [good[:6] + bytes(6) + good[12:], good[:6] + b"\1\0\x5e\0\0\1" + good[12:]],
        "truncated": [good[:n] for n in range(38, len(good))],
    }


def test_malformed_messages_at_rate_are_counted_one_by_one_and_harm_nobody(lab: Lab) -> None:
    crowd = Crowd(lab, 4)
    named = malformed(random.Random(4))
    frames = [(name, frame) for name, some in named.items() for frame in some] * 20
    random.Random(5).shuffle(frames)
    n_frames, found = flooded(crowd, [frame for _, frame in frames], 8000)
    counts = crowd.settled()
    assert n_frames == len(frames) == sum(counts[name] for name in named)
    assert {name: counts[name] for name in named} == {name: 20 * len(some) for name, some in named.items()}
    assert counts["punted"] - len(found) - 2 == n_frames - counts["truncated"]
    assert crowd.members(ROGUE) == 0
    assert "Traceback" not in crowd.fastpath.log
    assert len([line for line in crowd.fastpath.log.splitlines() if "WARNING" in line]) < 10


def churn(count: int, after: int) -> list[bytes]:
    """Reports of a host that joins groups, and leaves them at once."""
    kinds = (joins(ROGUE, count, PER, kind, after=after) for kind in (Kind.TO_EX, Kind.TO_IN))
    return [frame for pair in zip(*kinds, strict=True) for frame in pair]


def test_who_watches_and_does_not_read_is_told_what_was_missed_and_costs_no_memory(lab: Lab) -> None:
    crowd = Crowd(lab, 4, max_groups_per_port=100_000, max_members_per_port=100_000)
    with socket.socket(socket.AF_UNIX) as idle:
        idle.settimeout(10)
        idle.connect(str(crowd.fastpath.socket))
        idle.sendall(b"GET /v1/monitor?topic=members HTTP/1.0\r\nHost: test\r\n\r\n")
        assert idle.recv(1)
        before = crowd.memory()
        assert sent(crowd.flood(ROGUE, joins(ROGUE, 20_000, PER), 1000)) == 200
        wait_for(lambda: crowd.fastpath.status()["fib"] and crowd.settled(), "all has been told")
        grown = crowd.memory() - before
        assert grown < 64
        text = b""
        while b'"missed"' not in text:
            text += idle.recv(1 << 20)
    rows = [json.loads(line) for line in text.splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    n_missed = sum(row.get("missed", 0) for row in rows)
    assert 0 < n_missed < 20_000


@pytest.mark.slow
def test_endless_churn_of_ever_new_groups_keeps_the_memory_flat(lab: Lab) -> None:
    crowd = Crowd(lab, 2, fast_leave=True)
    memory = []
    for turn in range(3):
        n_frames = sent(crowd.flood(ROGUE, churn(100_000, turn * 100_000), 700))
        assert crowd.settled()["punted"] == (turn + 1) * n_frames
        wait_for(lambda: crowd.fastpath.show("groups") == [], "all are gone")
        memory.append(crowd.memory())
    print("MiB after each 100,000 groups:", *(f"{one:.1f}" for one in memory))
    assert memory[2] - memory[0] < 8, "more than the ring of punted frames, once it was used"
