"""What a node is and what it is told of a group: the values that managers and nodes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Key = bytes
"""Of a group: its 4 or 16 bytes. Later also an encapsulation and a number (5 bytes), or these with a tenant's
group and source (more); lengths tell them apart."""
Address = bytes
"""4 or 16 bytes."""

MESH, POINT = "mesh", "point"


class Entry(NamedTuple):
    """The tunnels of a key at one node.

    Of a device: copies go to each of `peers` (CONFORMANCE TI), or to each of `backup` while one of `peers` is
    a point that its probes do not reach; packets are taken from all of these and from `accept`. Of a point:
    copies go to each of `peers` but the sender; `onward` are the points that get one besides (RFC 9574,
    IR-IP), never of what came from a point. `vnis` and `vsids`: the networks of the group, by which a point
    finds the list of a packet that was rewritten.
    """

    key: Key
    via: str
    peers: tuple[Address, ...] = ()
    backup: tuple[Address, ...] = ()
    accept: tuple[Address, ...] = ()
    onward: tuple[Address, ...] = ()
    vnis: tuple[int, ...] = ()
    vsids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A device or a point, as it said who it is.

    `generation`: grows with every start of it. `replicate`: the address of a point that takes what is to be
    copied on (AR-IP), "" of a device. `vnis`: the ranges that a point serves by its own config, () for all.
    """

    name: str
    role: str
    """device or replicator"""
    address: Address
    generation: int
    tunnel: str = "nested"
    replicate: Address = b""
    vnis: tuple[tuple[int, int], ...] = ()
