"""What became of members, groups and next hops, told to those who watch (`fastpath monitor`) and to the log.

The log has the second information, which is what a fabric is about: a line for each group that the box enters
or leaves, so many a second, and a number for the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ctrl.events import Bus, group_event, member_event, tunnel_event
from ctrl.membership import Event, Membership
from fastpath.model import IPAddress

LOG = logging.getLogger("fastpath.membership")
LINES_A_SECOND = 20


class Teller:
    """Tells events as they come; `name_of` gives a port's name by its place."""

    def __init__(self, bus: Bus, membership: Membership, name_of: Callable[[int], str]) -> None:
        self._bus = bus
        self._membership = membership
        self._lines = 0
        self._silent = 0
        self._name_of = name_of

    def member(self, event: Event) -> None:
        """Tell what became of a member, and of its group."""
        if self._bus.wanted("members"):
            self._bus.publish("members", member_event(event, self._name_of(event.who.port)))
        if not event.is_first and not event.is_last:
            return
        revision = event.revision
        if self._bus.wanted("groups"):
            self._bus.publish("groups", group_event(event.group, revision, joined=event.is_first))
        if self._lines < LINES_A_SECOND:
            self._lines += 1
            LOG.info(
                "group %s group=%s port=%s revision=%d",
                "joined" if event.is_first else "left",
                *(event.group, self._name_of(event.who.port), revision),
            )
        else:
            self._silent += 1

    def tenant(self, network: str, event: Event) -> None:
        """Tell what became of a VM in a group of its network; the log has nothing of what tenants do."""
        if self._bus.wanted("members"):
            port = self._name_of(event.who.port)
            self._bus.publish("members", member_event(event, port, network))

    def hops(self, old: Mapping[IPAddress, str], new: Mapping[IPAddress, str]) -> None:
        """Tell which peers are reached otherwise than before."""
        if self._bus.wanted("tunnels"):
            for peer, state in new.items():
                if old.get(peer) != state:
                    self._bus.publish("tunnels", tunnel_event(peer, state))

    def tick(self) -> None:
        """A second is over."""
        if self._silent:
            LOG.info("groups joined or left besides=%d revision=%d", self._silent, self._membership.revision)
        self._lines = self._silent = 0
