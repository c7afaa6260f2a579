"""Where a copy may have got lost, told by all who had it in their hands: for the text of a failed test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ctrl.cli.asking import NotAnswered
from ctrl.lab.namespaces import Namespace
from tests.system.lab import Fastpath

LOG_LINES = 12
_RECEIVED, _SENT = 0, 8
"""Where a line of /proc/net/dev begins with each; in both: bytes, packets, errs, drop, fifo."""


def account(daemons: Iterable[Fastpath], boxes: Iterable[Namespace], backlog_before: int) -> str:
    """What the daemons, and the kernel in these boxes, say of what they had and did not pass on."""
    lines = [f"kernel: backlog_drops={backlog_drops() - backlog_before} (of all that runs on this machine)"]
    for box in boxes:
        lines += [f"{box.name}: {said}" for said in box.run(lambda: list(_kernel()))]
    for one in daemons:
        lines += [f"{one.name}: {said}" for said in _daemon(one)]
    return "\n".join(lines)


def backlog_drops() -> int:
    """Frames, of all namespaces, that found a CPU's queue (net.core.netdev_max_backlog) full."""
    rows = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(row.split()[1], 16) for row in rows)


def _daemon(one: Fastpath) -> Iterator[str]:
    with suppress(NotAnswered):
        for name in ("status", "ports", "drops", "groups", "tunnels", "sessions"):
            rows = one.show(name)
            shown = (" ".join(f"{key}={value}" for key, value in row.items()) for row in rows[:LOG_LINES])
            yield from (f"{name} {row}" for row in shown)
            if len(rows) > LOG_LINES:
                yield f"{name} and more: {len(rows) - LOG_LINES}"
    yield from (f"log {line}" for line in one.log.splitlines()[-LOG_LINES:])


def _kernel() -> Iterator[str]:
    """What the caller's namespace lost: by devices, and of UDP."""
    net = Path("/proc/thread-self/net")
    for line in (net / "dev").read_text().splitlines()[2:]:
        device, _, counted = line.partition(":")
        n = [int(word) for word in counted.split()]
        ways = ((way, n[at + 1], sum(n[at + 2 : at + 5])) for way, at in (("in", _RECEIVED), ("out", _SENT)))
        said = (f"{way}={packets} {way}_lost={lost}" for way, packets, lost in ways)
        yield f"device {device.strip()} {' '.join(said)}"
    udp = (row.split() for row in (net / "snmp").read_text().splitlines() if row.startswith("Udp:"))
    yield f"udp {' '.join(f'{name}={n}' for name, n in zip(*udp, strict=True) if 'Err' in name)}"
