"""The golden files: what each capture comes to by each config of examples/, in lines: a frame, its copies.

They are replayed and compared by tests/unit/test_replay.py. A change that is meant to change them is followed
by this, which writes tests/golden/*.txt anew; read the diff before you believe it:

    .venv/bin/python -m tests.goldens
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from ctrl.config import load
from ctrl.table import Row
from fastpath.model import Verdict
from tests import frames as f
from tests.captures_io import pcap
from tests.replaying import CAPTURES, EXAMPLES, ROOT, Checked, Said, checked
from tests.wording import words

GOLDEN = ROOT / "tests" / "golden"
TOTALS = GOLDEN / "totals.txt"
IN_PORT = {"device.toml": "p1"}
"""Where frames come in whose interface is no port of the config; else its first port."""

TENANT = f.tenant()
GROUP = "239.1.1.100"


def nested(peer: str, point: str, vni: int = 100, group: str = GROUP) -> bytes:
    """What a device sends to a point: a group packet of one of its NVEs in a tunnel."""
    return f.wire(f.nested_packet(f.vxlan_packet(TENANT, "10.1.1.2", group, vni), peer, point))


MADE = {
    "to_point.pcap": [
        *(nested(f"10.0.0.{i}", "10.0.0.110") for i in (1, 2, 3, 9)),
        nested("10.0.0.1", "10.0.0.110", vni=200),
        nested("10.0.0.1", "10.0.0.110", group="239.1.1.7"),
        f.wire(f.igmp("10.0.0.1", "224.0.0.22")),
    ],
    "to_vtep_point.pcap": [
        f.wire(f.vxlan_packet(TENANT, "10.0.0.1", "10.0.0.111", 100)),
        f.wire(f.vxlan_packet(TENANT, "10.0.0.2", "10.0.0.111", 100, datagram={"checksum": f.RIGHT})),
        f.wire(f.nvgre_packet(TENANT, "10.0.0.3", "10.0.0.111", 5000)),
        f.wire(f.vxlan_packet(TENANT, "10.0.0.1", "10.0.0.110", 100)),
        f.wire(f.vxlan_packet(TENANT, "10.0.0.9", "10.0.0.111", 100)),
        f.wire(f.vxlan_packet(TENANT, "10.0.0.1", "10.0.0.111", 101)),
    ],
}
"""Captures for the roles that none of the recorded ones is about, made from nothing."""


@dataclass(frozen=True)
class Golden:
    """One golden file: the replay of one capture by one config."""

    capture: str
    config: str

    @property
    def file(self) -> Path:
        return GOLDEN / f"{self.capture.split('.')[0]}-{self.config.removesuffix('.toml')}.txt"


GOLDENS = (
    Golden("mixed_demo.pcapng", "demo.toml"),
    Golden("nvgre_ovs.pcapng", "demo.toml"),
    Golden("noise.pcap", "demo.toml"),
    Golden("vxlan_igmp.pcapng", "device.toml"),
    Golden("joins.pcapng", "joins.toml"),
    Golden("to_point.pcap", "point.toml"),
    Golden("to_vtep_point.pcap", "vtep-point.toml"),
)
ALL = tuple(
    Golden(capture, config.name)
    for config in sorted(EXAMPLES.glob("*.toml"))
    for capture in (*sorted(path.name for path in CAPTURES.glob("*.pcap*")), *MADE)
)
"""Every capture by every example, each a line of totals.txt."""


def run(golden: Golden, folder: Path) -> Checked:
    """Replay it into a folder, checked against the reference."""
    capture = CAPTURES / golden.capture
    if golden.capture in MADE:
        capture = folder / golden.capture
        frames = MADE[golden.capture]
        capture.write_bytes(pcap((10**18 + i * 10**6, data) for i, data in enumerate(frames)))
    config = load(EXAMPLES / golden.config)
    return checked(config, capture, folder / "out.pcapng", IN_PORT.get(golden.config, config.ports[0].name))


def lines(golden: Golden, result: Checked) -> Iterator[str]:
    """Give the lines of a golden file: each frame that came in, and under it what became of it."""
    ports = [port.name for port in result.done.layout.ports]
    left, said = iter(result.copies), list(result.said)
    yield f"# {golden.capture} by examples/{golden.config}: frame, port, bytes, CRC-32, headers; its copies"
    yield "# ? what we asked; then who is a member by joining, and what control refused"
    yield from _asked(said, 0, result)
    for number, ((in_port, frame), outcome) in enumerate(
        zip(result.arrivals, result.outcomes, strict=True), 1
    ):
        yield f"{number:4} {_line(ports[in_port], frame.data)}"
        if outcome.verdict is not Verdict.REPLICATE:
            yield f"     {outcome.verdict.name.lower()} {outcome.reason or ''}".rstrip()
        for _ in outcome.copies:
            yield f"   > {_line(*next(left))}"
        for reason, n in outcome.copy_drops.items():
            yield f"   > {n} copy dropped: {reason}"
        yield from _asked(said, number, result)
    yield from (f"member {_member(row)}" for row in result.done.members if row["origin"] != "static")
    yield from (f"refused {name} {n}" for name, n in sorted(result.done.refused.items()))


def _asked(said: list[Said], after: int, result: Checked) -> Iterator[str]:
    begin_ns = result.arrivals[0][1].time_ns
    while said and said[0].after == after:
        one = said.pop(0)
        yield f"   ? {_line(one.port, one.data)} at {(one.time_ns - begin_ns) / 1e9:.6f} s"


def _member(row: Row) -> str:
    words = (row["port"], row["group"], row["nve"] or "-", row["origin"], row["mode"], *row["sources"])
    timer = "" if row["expires_s"] is None else f" for {row['expires_s']:.3f} s"
    return " ".join(words) + "".join(f" not {one}" for one in row["blocked"]) + timer


def total(golden: Golden, result: Checked) -> str:
    """Give the line of totals.txt."""
    counted = result.done.statistics
    sums = (
        f"{counted.received:4} = {counted.replicated:3} replicated + {counted.punted:2} punted "
        f"+ {counted.dropped:3} dropped; {counted.copies_out:3} copies; "
        f"{result.done.joined} joined, {result.done.left} left, {result.done.queries} queries"
    )
    reasons = " ".join(f"{name}={n}" for name, n in result.reasons().items())
    return f"{golden.config:16} {golden.capture:20} {sums}  {reasons}".rstrip()


def text(rows: Iterator[str]) -> str:
    """The text of a file."""
    return "".join(f"{row}\n" for row in rows)


def _line(port: str, data: bytes) -> str:
    return f"{port:<5}{len(data):5} {crc32(data):08x} {words(data)}"


def main() -> None:
    """Write every golden file."""
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = {golden: run(golden, Path(folder)) for golden in ALL}
    for golden in GOLDENS:
        golden.file.write_text(text(lines(golden, results[golden])))
    TOTALS.write_text(text(total(*one) for one in results.items()))


if __name__ == "__main__":
    main()
