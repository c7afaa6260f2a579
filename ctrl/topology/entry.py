"""What a node is and what it is told of a group: the values that managers and nodes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Key = bytes
"""Of a group: its 4 or 16 bytes. Of what tenants want in a network: `tenant_key`, which is never as long."""
Address = bytes
"""4 or 16 bytes."""

ANY: Address = bytes(4)
"""In the place of a tenant's group: all of them, as a multicast router is there, or somebody who did not have
the time yet to say what he wants (RFC 4541 section 2.1.1)."""
AWARE: Address = b""
"""The same: a node reads the IGMP and MLD of the tenants. Who does not wants all of their groups."""

MESH, POINT = "mesh", "point"
_GROUP_SIZES = (4, 16)
_INNER_SIZES = (len(AWARE), *_GROUP_SIZES)


class TenantKey(NamedTuple):
    """What a key of tenants is about: the group of the network, its VNI, and the tenants' group."""

    outer: Address
    vni: int
    inner: Address


def tenant_key(outer: Address, vni: int, inner: Address) -> Key:
    """Make the key of a tenants' group, ANY or AWARE, in a network that is carried by an outer group."""
    return bytes((len(outer),)) + outer + vni.to_bytes(3, "big") + inner


def is_tenant(key: Key) -> bool:
    """Say whether a key is about tenants."""
    return len(key) not in (4, 16)


def split_tenant(key: Key) -> TenantKey:
    """Take such a key apart."""
    end = 1 + key[0]
    return TenantKey(key[1:end], int.from_bytes(key[end : end + 3], "big"), key[end + 3 :])


def is_key(key: bytes) -> bool:
    """Say whether it is as long as a key must be, with the length of the outer group that it says."""
    size = len(key)
    return size in _GROUP_SIZES or (size > 0 and key[0] in _GROUP_SIZES and size - key[0] - 4 in _INNER_SIZES)


def outer_of(key: Key) -> Key:
    """Name the group that carries it: of one that is not about tenants, itself."""
    return key[1 : 1 + key[0]] if is_tenant(key) else key


def aware_of(key: Key) -> Key:
    """Name the key by which nodes say that they read what tenants say, in the network of a tenants' key."""
    return key[: key[0] + 4]


class Entry(NamedTuple):
    """The tunnels of a key at one node. Of a tenants' key: `peers` are all other nodes that want it, and
    who is told filters the list of the outer group by that.

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
    is_nve: bool = False
    """Of a device: it is an NVE, and is shown as one; all else is as with any device."""

    @property
    def shown_role(self) -> str:
        """device, nve or replicator"""
        return "nve" if self.is_nve and self.role == "device" else self.role
