"""What the control socket asks of a box; the daemon is one, and tests have one of a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from ctrl.events import Bus
from ctrl.view import DeviceView, GroupView, MacView, MemberView, SessionView, View
from fastpath.model import IPAddress

if TYPE_CHECKING:
    from fastpath.reference import MacTable


class Box(Protocol):
    """All is called in the loop's thread."""

    @property
    def events(self) -> Bus:
        """Where the box tells what happens; always the same one."""

    def view(self) -> View:
        """Picture the moment, once a request. It must never change: it is read in another thread."""

    def members(self) -> Iterable[MemberView]:
        """Everyone who is in a group here, in any order; called for `show members` alone.

        Walked a slice at a time, and the loop goes on in between: an iterator has to bear that the table
        changes meanwhile, as a list does.
        """

    def macs(self) -> Iterable[MacView]:
        """The stations that the NVE of this box knows, in any order; called for `show macs` alone. Walked
        like `members`."""

    def stations(self) -> MacTable | None:
        """The same, to be asked for one MAC and how it is reached; None: the box is no NVE.

        For POST /v1/explain, which asks in another thread while the box goes on.
        """

    def devices(self) -> Iterable[DeviceView]:
        """The nodes that the manager of this box knows, in any order; called for `show devices`,
        `show tunnels` and the metrics alone. Walked like `members`."""

    def groups(self) -> Iterable[GroupView]:
        """The groups that the manager of this box knows, in any order; called for `show groups` alone. Walked
        like `members`."""

    def sessions(self) -> Iterable[SessionView]:
        """The sessions that the manager of this box serves; called for `show sessions` and the metrics alone.
        Walked like `members`."""

    def moved(self, nves: Sequence[IPAddress]) -> int:
        """Query these NVEs and nobody else (CONFORMANCE D19); how many of them were known."""

    def tell_moved(self, nves: Sequence[IPAddress]) -> int | None:
        """Have every device of the manager of this box do that; how many are told, None: it is no manager."""
