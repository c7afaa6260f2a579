"""What hears tenants at the device and the point of a replay (`ctrl.tenant_relay`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ctrl.members import relayed_views
from ctrl.membership import Event
from ctrl.publisher import Basis, Publisher
from ctrl.tenant_relay import TenantRelay
from ctrl.view import MemberView
from fastpath import Punted
from fastpath.model import GroupKey, Layout


class ReplayedRelays:
    """All of a box: one a scope, or none."""

    def __init__(
        self, relays: Sequence[TenantRelay], publisher: Publisher, layout: Layout, found: Basis
    ) -> None:
        self._relays = relays
        self._publisher = publisher
        self._layout = layout
        self._fixed = {one.key for one in found.fixed}
        self.n_sent = 0
        """Frames that were taken to be sent."""

    def attach(self, now_s: float) -> None:
        """Begin."""
        for relay in self._relays:
            relay.attach(self._publisher.lists, self._layout, {}, self._fixed, now_s)

    def touched(self, keys: Collection[GroupKey], now_s: float) -> bool:
        """These lists differ; True where some of them are listened to."""
        are_others = [relay.touched(keys, now_s) for relay in self._relays]
        return any(are_others)

    def hear(self, punted: Punted, now_s: float) -> bool:
        """Take a frame, if it is for one of these."""
        for relay in self._relays:
            if punted.inner is not None and punted.inner.scope is relay.scope:
                relay.hear(*relay.whose(punted), now_s)
                return True
        return False

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        for relay in self._relays:
            relay.poll(now_s)

    @property
    def deadlines_s(self) -> list[float | None]:
        """When `poll` is due next: the least of these."""
        return [relay.deadline_s for relay in self._relays]

    def take_events(self) -> list[tuple[str, Event]]:
        """What became of members since the last call, with their networks."""
        return [event for relay in self._relays for event in relay.take_events()]

    def take_frames(self) -> list[tuple[int, bytes]]:
        """(place of the port, frame) of what is to be sent, in order."""
        frames = [frame for relay in self._relays for frame in relay.take_frames()]
        self.n_sent += len(frames)
        return frames

    def members(self, names: Sequence[str], now_s: float) -> Iterator[MemberView]:
        """The VMs that are in groups; `names` are those of the ports."""
        for relay in self._relays:
            yield from relayed_views(names, relay, now_s)
