"""What a case is, and how to add one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastpath.model import Frame, Layout, ReplicationList, Verdict
from tests.cases.box import BOX, LISTS

REPLICATE, PUNT, DROP = Verdict.REPLICATE, Verdict.PUNT, Verdict.DROP


@dataclass(frozen=True)
class Case:
    """One frame and its fate. `copies` are (out port, bytes) in order; None leaves them unchecked."""

    name: str
    layout: Layout
    lists: tuple[ReplicationList, ...]
    in_port: int
    frame: Frame
    expect_verdict: Verdict
    expect_reason: str | None = None
    note: str = ""
    copies: tuple[tuple[int, bytes], ...] | None = None
    copy_drops: Mapping[str, int] | None = None


CASES: list[Case] = []


def case(
    name: str,
    frame: Frame | bytes,
    fate: Verdict | str,
    *,
    layout: Layout | None = None,
    lists: tuple[ReplicationList, ...] | None = None,
    in_port: int = 1,
    note: str = "",
    copies: list[tuple[int, bytes]] | None = None,
    drops: dict[str, int] | None = None,
) -> None:
    """Add a case. A fate that is a string is a drop reason; without more, the box is `BOX` with `LISTS`."""
    verdict, reason = (DROP, fate) if isinstance(fate, str) else (fate, None)
    whole = frame if isinstance(frame, Frame) else Frame(frame)
    out = None if copies is None else tuple(copies)
    if out is not None and drops is None:
        drops = {}
    CASES.append(
        Case(
            name,
            BOX if layout is None else layout,
            LISTS if lists is None else lists,
            in_port,
            whole,
            verdict,
            reason,
            note,
            out,
            drops,
        )
    )
