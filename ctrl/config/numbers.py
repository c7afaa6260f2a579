"""Numbers that the config leaves to be derived: VSIDs of networks, and the keys of a replicator's lists by
number."""

from __future__ import annotations

from collections.abc import Sequence

from ctrl.config.schema import ListTable, NetworkTable, ReceiverTable
from ctrl.config.values import MAX_VSID, MIN_VSID

NumberKey = tuple[str, int]
"""An encapsulation by its name in the config, and a VNI or VSID."""


def is_vsid(number: int) -> bool:
    """Whether NVGRE can carry the number (RFC 7637 section 3.2)."""
    return MIN_VSID <= number <= MAX_VSID


def vsid_of(network: NetworkTable) -> int | None:
    """The network's VSID: its own, else its vni where NVGRE can carry that, else none."""
    if network.vsid is not None:
        return network.vsid
    return network.vni if is_vsid(network.vni) else None


def number_in(network: NetworkTable, encap: str) -> int | None:
    """The network's number in an encapsulation."""
    return vsid_of(network) if encap == "nvgre" else network.vni


def list_key(table: ListTable) -> NumberKey | None:
    """What frames of a list by number carry; None for a list by group."""
    if table.vsid is not None:
        return "nvgre", table.vsid
    if table.vni is not None:
        return table.encap or "vxlan", table.vni
    return None


def receiver_key(key: NumberKey, receiver: ReceiverTable, networks: Sequence[NetworkTable]) -> NumberKey:
    """What frames of one receiver carry: what it says, else what the list or its network has in that
    encapsulation."""
    encap = receiver.encap or key[0]
    if receiver.vni is not None:
        return encap, receiver.vni
    if encap != key[0]:
        for network in networks:
            number = number_in(network, encap)
            if number_in(network, key[0]) == key[1] and number is not None:
                return encap, number
    return encap, key[1]
