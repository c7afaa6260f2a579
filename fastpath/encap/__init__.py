"""Outer headers as data: which programs make the copies of an egress.

A new encapsulation is one module beside these with `native` (keep its header) and `made` (a new one), and
its row below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from fastpath.encap import nested, nvgre, vxlan
from fastpath.encap.program import (
    NO_PROGRAM,
    Keep,
    Outer,
    Patch,
    Program,
    ethernet,
    group_mac,
)
from fastpath.model import Egress, Encap, Form, Layout, Port

NATIVE: Mapping[Encap, Callable[[Outer], Program]] = {Encap.VXLAN: vxlan.native, Encap.NVGRE: nvgre.native}
MADE: Mapping[Encap, Callable[[Outer, Layout], Program]] = {
    Encap.VXLAN: lambda outer, layout: vxlan.made(outer, layout.vxlan_ports[0]),
    Encap.NVGRE: lambda outer, layout: nvgre.made(outer),
}

_EGRESS = struct.Struct("<IIHBBIB15x")
_ANY_ENCAP = 255
_FRAMES_NUMBER = 0xFFFFFFFF


def _to_address(egress: Egress, port: Port) -> Outer:
    if egress.address is None:
        raise ValueError(f"{egress}: {egress.form.name} needs an address")
    if egress.source is not None and egress.source.version != egress.address.version:
        raise ValueError(f"{egress}: source and address are of different IP versions")
    to_group = egress.address.is_multicast
    mac = group_mac(egress.address) if to_group else port.next_hop_mac or bytes(6)
    return Outer(egress.address.version, port.mac, mac, egress.source, egress.address)


def _group(egress: Egress, port: Port, layout: Layout) -> tuple[Program, Program | None]:
    as_it_came = Program(ethernet(port.mac, bytes(6), 4), Keep.MT, Patch.GROUP_MAC, rides=0)
    if egress.encap is None:
        return as_it_came, None
    outer = Outer(egress.version, port.mac, bytes(6), egress.source, None)
    return as_it_came, MADE[egress.encap](outer, layout)


def _rewrite(egress: Egress, port: Port, layout: Layout) -> tuple[Program, Program]:
    outer = _to_address(egress, port)
    if egress.encap is None:
        return NATIVE[Encap.VXLAN](outer), NATIVE[Encap.NVGRE](outer)
    return NATIVE[egress.encap](outer), MADE[egress.encap](outer, layout)


def programs(egress: Egress, port: Port, layout: Layout) -> tuple[Program, Program | None]:
    """The program for frames that keep their overlay header and the one for those that get a new one.

    Without `encap`, REWRITE keeps either header: the second program is then NVGRE's. ValueError where the
    egress lacks what its form needs.
    """
    if egress.form is Form.GROUP:
        return _group(egress, port, layout)
    if egress.form is Form.REWRITE:
        return _rewrite(egress, port, layout)
    if egress.form is Form.NESTED:
        return nested.native(_to_address(egress, port)), None
    return Program(b"", Keep.INNER, Patch(0)), None


def needs_next_hop(egress: Egress) -> bool:
    """Whether copies go to a unicast address, whose MAC somebody must know."""
    return (
        egress.form in {Form.REWRITE, Form.NESTED}
        and egress.address is not None
        and not egress.address.is_multicast
    )


def pack_egress(
    egress: Egress, owner_id: int, class_ids: dict[object, int], port: Port, layout: Layout
) -> bytes:
    """Lay an egress and its programs out as the `egress_t` of the data path.

    `port` is its out port as it stands for this egress: with the MAC of its next hop, None where that is not
    known. Egresses that differ in nothing but addresses get the same number from `class_ids`: their copies of
    a frame are worked out together.
    """
    unresolved = port.next_hop_mac is None and needs_next_hop(egress)
    native, made = programs(egress, port, layout)
    shape = (
        *(egress.out_port, egress.form, egress.encap, egress.vni, unresolved),
        *(native.shape(), made and made.shape()),
    )
    return (
        _EGRESS.pack(
            owner_id,
            _FRAMES_NUMBER if egress.vni is None else egress.vni,
            egress.out_port,
            egress.form,
            _ANY_ENCAP if egress.encap is None else egress.encap,
            class_ids.setdefault(shape, len(class_ids)),
            unresolved,
        )
        + native.pack()
        + (NO_PROGRAM if made is None else made.pack())
    )
