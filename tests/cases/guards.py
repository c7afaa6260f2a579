"""What a VM may send by its port's rules, and whose own frames come back to whom where roles share a box."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastpath.model import Endpoint, Frame, Layout
from tests import frames as f
from tests.cases.box import (
    CORE,
    DEVICE,
    EDGE,
    GROUP,
    GROUP_MAC,
    LISTS,
    NVE,
    OWN,
    P0,
    P1,
    PORTS,
    VM_BLUE,
    VM_GREEN,
    VNI,
    VTEP,
    addr,
    at_port,
    at_vm,
    of_group,
    of_number,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import TENANT, arriving, leaving, vxlan

SOURCE = TENANT[6:12]
OTHER = bytes.fromhex("0210aabbcc01")


def with_port(layout: Layout, place: int, **changes: Any) -> Layout:
    """The same box with another port in this place."""
    return replace(layout, ports=(*PORTS[:place], replace(PORTS[place], **changes), *PORTS[place + 1 :]))


def guarded(**rules: Any) -> Layout:
    """EDGE, its BLUE port with rules."""
    return with_port(EDGE, VM_BLUE, **rules)


def guard_cases() -> None:
    """VM_BLUE and VM_GREEN hear each other; the rules are VM_BLUE's."""
    lists = (of_number(NVE, VNI, at_vm(VM_BLUE), at_vm(VM_GREEN)),)
    copies = [(VM_GREEN, TENANT)]
    vm: dict[str, Any] = {"in_port": VM_BLUE, "lists": lists}

    of_group = f.tenant(src_mac=bytes.fromhex("0fb1c3d5e7f9"))
    of_nobody = f.tenant(src_mac=bytes(6))
    for name, data in (("a_group", of_group), ("nobody", of_nobody), ("all", f.tenant(src_mac=b"\xff" * 6))):
        case(f"guard_source_of_{name}", data, "bad_source", layout=EDGE, **vm)
    case("guard_bad_comes_before_wrong", of_nobody, "bad_source", layout=guarded(macs=(OTHER,)), **vm)
    received = arriving(vxlan(of_group, "10.1.1.77", GROUP))
    case("guard_is_for_vms", received, REPLICATE, in_port=CORE, layout=guarded(macs=(OTHER,)), lists=lists)

    allowed = guarded(macs=(OTHER, SOURCE))
    case("guard_source_allowed", TENANT, REPLICATE, layout=allowed, copies=copies, **vm)
    case("guard_source_not_allowed", TENANT, "wrong_source", layout=guarded(macs=(OTHER,)), **vm)
    nearly = guarded(macs=(SOURCE[:5] + b"\xf8", b"\x0a" + SOURCE[1:]))
    case("guard_source_nearly_allowed", TENANT, "wrong_source", layout=nearly, **vm)

    untagged = guarded(drop_tagged=True)
    for name, tpid in (("tag", f.TAG), ("service_tag", f.SERVICE_TAG)):
        case(f"guard_{name}", f.tenant(tags=[(tpid, 5)]), "tagged_frame", layout=untagged, **vm)
    case("guard_no_tag", TENANT, REPLICATE, layout=untagged, copies=copies, **vm)
    shortest = TENANT[:12] + b"\x81\x00"
    case("guard_shortest_tagged_frame", shortest, "tagged_frame", layout=untagged, **vm)
    aside = Frame(TENANT, vlan=(f.TAG, 5))
    case("guard_tag_out_of_band", aside, REPLICATE, layout=untagged, copies=copies, **vm)
    both = guarded(macs=(OTHER,), drop_tagged=True)
    case("guard_wrong_comes_before_tagged", f.tenant(tags=[(f.TAG, 5)]), "wrong_source", layout=both, **vm)
    case("guard_comes_before_lookup", of_nobody, "bad_source", layout=EDGE, in_port=VM_BLUE, lists=())
    case("guard_runt", of_nobody[:13], "truncated", layout=EDGE, **vm)

    snoops = replace(
        EDGE, networks=tuple(replace(one, snoop=True, drop_unregistered=True) for one in EDGE.networks)
    )
    received = arriving(vxlan(TENANT, "10.1.1.77", GROUP))
    case(
        "unregistered_group",
        received,
        "unregistered_group",
        in_port=CORE,
        layout=snoops,
        lists=lists,
        note="N13",
    )


def own_cases() -> None:
    """One box: what our NVE sends is a frame of an NVE to our device, not its own come back; N11."""
    beside = replace(
        EDGE, endpoints=(Endpoint(addr(OWN), DEVICE), Endpoint(addr(VTEP), NVE)), peers=(), nves=()
    )
    lists = (*LISTS, of_number(NVE, VNI, at_vm(VM_BLUE)))
    shared: dict[str, Any] = {"layout": beside, "lists": lists}
    from_nve = arriving(vxlan(TENANT, VTEP, GROUP))
    case("own_nve_beside_a_device", from_nve, REPLICATE, in_port=P1, note="N11", **shared)
    case("own_nve_hears_itself", from_nve, "own_source", in_port=CORE, note="N10", **shared)
    from_device = arriving(vxlan(TENANT, OWN, GROUP))
    case("own_device_hears_itself", from_device, "own_source", in_port=P1, **shared)
    case("own_device_beside_an_nve", from_device, "own_source", in_port=CORE, **shared)
    to_device = arriving(vxlan(TENANT, VTEP, OWN))
    case("own_nve_sends_to_a_device", to_device, "unknown_peer", in_port=P1, **shared)

    shared["lists"] = (of_group(at_port(P0)), of_number(NVE, VNI, at_vm(VM_BLUE)))
    packet = vxlan(TENANT, "10.1.1.77", GROUP)
    of_others = arriving(packet)
    at_blue = [(VM_BLUE, TENANT)]
    case("own_groups_of_an_nve", of_others, REPLICATE, in_port=CORE, copies=at_blue, **shared)
    shared["layout"] = with_port(beside, CORE, group_scope=DEVICE)
    case(
        *("own_groups_of_a_device_beside_it", of_others, REPLICATE),
        in_port=CORE,
        copies=[leaving(P0, packet, GROUP_MAC)],
        note="N11",
        **shared,
    )
    case("own_device_hears_itself_in_the_core", from_device, "own_source", in_port=CORE, **shared)
    shared["layout"] = with_port(beside, P1, group_scope=NVE)
    case("own_groups_of_an_nve_at_any_port", of_others, REPLICATE, in_port=P1, copies=at_blue, **shared)
