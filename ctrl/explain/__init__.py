"""One frame explained: each step of the rules in src_cython/fastpath/README.md, each copy, and the verdict.

- here: the keys of a step, for the command and the daemon; imports nothing that takes long
- `answer`: the steps of a frame, from the trail that the reference leaves
- `words`: how addresses, headers and receivers read in a step
- `punted`: what IGMP and MLD say

The rules stand in `fastpath.reference` and nowhere here. Nothing is sent, and nothing is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctrl.objects import Column, Shown, row_schema

MAX_FRAME = 1 << 17
"""Bytes of a frame that may be asked about: more than any that a port hands over."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row of an explanation: `EXPLAINED` says what each key holds."""

    step: str
    rule: str | None
    what: str
    detail: str | None = None
    reason: str | None = None
    port: str | None = None
    form: str | None = None
    receiver: str | None = None
    size: int | None = None
    frame: str | None = None


EXPLAINED = Shown(
    "A step of a frame on its way; the last one is the verdict.",
    (
        Column(
            "step",
            "text",
            "port, checksum, ethernet, outer, nested, overlay, inner, role, class, sender, station, key, "
            "group, network, refined, exclusion, lesson, settled, message, record, copy or verdict.",
        ),
        Column("rule", "text", "The rule of src_cython/fastpath/README.md; null: none.", nullable=True),
        Column("what", "text", "What was found; of a copy: made or dropped; replicate, punt or drop."),
        Column("detail", "text", "More of it, in words.", nullable=True),
        Column("reason", "text", "Of what was dropped or refused: the reason's name.", nullable=True),
        Column("port", "text", "Of a copy: the port by which it would leave.", nullable=True),
        Column("form", "text", "Of a copy: group, rewrite, nested or decapsulated.", nullable=True),
        Column("receiver", "text", "Of a copy: the address it goes to, group or vm.", nullable=True),
        Column("size", "count", "Of a copy that is made: bytes from the Ethernet header on.", nullable=True),
        Column("frame", "text", "Of a copy that is made: its bytes as hex.", nullable=True),
    ),
)


def schema() -> dict[str, Any]:
    """Describe the array that `fastpath explain -j` prints, as JSON Schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastpath explain FRAME -j",
        "type": "array",
        "items": row_schema(EXPLAINED),
    }
