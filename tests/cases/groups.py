"""Rules 2.5 and 2.6: keys, recovered groups, networks."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from fastpath.model import GroupMap, ReplicationList
from tests import frames as f
from tests.cases.box import (
    BARE,
    BLUE,
    BOX,
    CORE,
    DEVICE,
    FAR_PEER,
    GREEN,
    GROUP,
    GROUP6,
    GROUP6_MAC,
    GROUP_MAC,
    MAPPED,
    MIX,
    OTHER_VNI,
    OWN,
    OWN6,
    P0,
    P1,
    P7,
    PEER,
    PEER6,
    REPLICATOR,
    SMALL,
    VNI,
    VSID,
    VTEP,
    VTEP6,
    addr,
    at_peer,
    at_port,
    of_group,
    of_number,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import ARP, FROM_NVE, TENANT, arriving, leaving, nested, nvgre, vxlan


def key_cases() -> None:
    def one(port: int, **key: Any) -> ReplicationList:
        return of_number(DEVICE, VNI, at_port(port), **key)

    def goes(port: int) -> list[tuple[int, bytes]]:
        return [leaving(port, FROM_NVE, GROUP_MAC)]

    outer_sg = of_group(at_port(MIX), source=VTEP)
    outer_g = of_group(at_port(P7))
    whole = one(SMALL)
    frame = arriving(FROM_NVE)
    every = (outer_g, whole, outer_sg)
    case("key_outer_source_and_group_first", frame, REPLICATE, lists=every, copies=goes(MIX))
    case("key_outer_group_second", frame, REPLICATE, lists=every[:2], copies=goes(P7))
    case("key_a_number_is_no_key_of_a_group", frame, "unknown_group", lists=(whole,), note="D15")
    case("key_no_list", frame, "unknown_group", lists=(), note="D15")
    case("key_another_scope", frame, "unknown_group", lists=(of_group(at_port(P0), scope=REPLICATOR),))
    case(
        "key_another_outer_source",
        frame,
        REPLICATE,
        lists=(outer_g, of_group(at_port(P0), source=PEER)),
        copies=goes(P7),
    )
    nested_frame = arriving(nested(FROM_NVE, PEER, OWN))
    case(
        "key_of_a_nested_packet",
        nested_frame,
        REPLICATE,
        lists=every,
        in_port=CORE,
        copies=goes(MIX),
        note="D14",
    )
    case(
        "link_local_groups_have_no_list",
        arriving(vxlan(TENANT, VTEP, "224.0.0.5")),
        "unknown_group",
        note="D17",
    )
    case(
        "link_local_groups_have_no_list_6",
        arriving(vxlan(TENANT, VTEP6, "ff02::5")),
        "unknown_group",
        note="D17",
    )


def recover_cases() -> None:
    """Rewritten unicast tunnels: the group has to be told from number and tenant (D14)."""
    fields: f.Knobs = {"in_port": CORE, "note": "D14"}
    one = (of_group(at_port(P0), remote=(at_peer(CORE, FAR_PEER),)),)
    as_group = {"ttl": 9, "id": 0x77AA, "tos": 0x60}
    came = vxlan(TENANT, PEER, OWN, ip=as_group, chksum=None)
    want = vxlan(TENANT, PEER, GROUP, ip=as_group, chksum=None)
    case(
        "recover_from_the_network",
        arriving(came),
        REPLICATE,
        lists=one,
        copies=[leaving(P0, want, GROUP_MAC)],
        **fields,
    )
    zero = vxlan(TENANT, PEER, OWN, ip=as_group)
    unsummed = vxlan(TENANT, PEER, GROUP, ip=as_group)
    case(
        "recover_leaves_a_zero_checksum",
        arriving(zero),
        REPLICATE,
        lists=one,
        copies=[leaving(P0, unsummed, GROUP_MAC)],
        **fields,
    )
    gre = nvgre(TENANT, PEER, OWN, VSID, **as_group)
    gre_want = [leaving(P0, nvgre(TENANT, PEER, GROUP, VSID, **as_group), GROUP_MAC)]
    case("recover_nvgre", arriving(gre), REPLICATE, lists=one, copies=gre_want, **fields)
    case(
        "recover_by_vsid_not_vni", arriving(nvgre(TENANT, PEER, OWN, VNI)), "unknown_vni", lists=one, **fields
    )
    case(
        "recover_unknown_number",
        arriving(vxlan(TENANT, PEER, OWN, 0x010203)),
        "unknown_vni",
        lists=one,
        **fields,
    )
    by_number = (of_number(DEVICE, VNI, at_port(P0)),)
    keeps = replace(BARE, networks=())
    not_to_a_group: f.Knobs = {"copies": [], "drops": {"no_header": 1}}
    case(
        "a_list_by_number_needs_no_group",
        arriving(came),
        REPLICATE,
        lists=by_number,
        layout=keeps,
        **not_to_a_group,
        **fields,
    )
    mapped = replace(
        BLUE,
        maps=(
            GroupMap(ip_network("239.0.0.0/8"), addr("239.99.99.99")),
            GroupMap(ip_network("239.77.0.0/16"), addr(MAPPED)),
            GroupMap(ip_network("239.77.1.0/30"), addr("239.0.0.3")),
            GroupMap(ip_network("239.77.1.4/30"), addr("239.0.0.4")),
        ),
    )
    layout = replace(BOX, networks=(mapped,))
    away = arriving(vxlan(f.tenant(dst="239.77.2.3"), PEER, OWN))
    lists = (of_group(at_port(P0), group=MAPPED), of_group(at_port(P1), group="239.0.0.3"))
    case("recover_longest_prefix", arriving(came), REPLICATE, lists=lists[1:], layout=layout, **fields)
    case("recover_shorter_prefix", away, REPLICATE, lists=lists[:1], layout=layout, **fields)
    case("recover_map_without_a_list", away, "unknown_group", lists=lists[1:], layout=layout, **fields)
    case(
        "recover_without_an_inner_address",
        arriving(vxlan(ARP, PEER, OWN)),
        REPLICATE,
        lists=one,
        layout=layout,
        **fields,
    )
    groupless = replace(BOX, networks=(replace(mapped, group=None),))
    case(
        "recover_without_any_group",
        arriving(vxlan(ARP, PEER, OWN)),
        "ambiguous_group",
        lists=one,
        layout=groupless,
        **fields,
    )
    twin = replace(BLUE, name="twin", vsid=0x700001)
    same = replace(BOX, networks=(BLUE, twin))
    case("recover_two_networks_one_group", arriving(came), REPLICATE, lists=one, layout=same, **fields)
    other = replace(BOX, networks=(BLUE, replace(twin, group=addr(MAPPED))))
    case(
        "recover_two_networks_two_groups",
        arriving(came),
        "ambiguous_group",
        lists=one,
        layout=other,
        **fields,
    )
    silent = replace(BOX, networks=(BLUE, replace(twin, group=None)))
    case(
        "recover_two_networks_one_without_a_group",
        arriving(came),
        REPLICATE,
        lists=one,
        layout=silent,
        **fields,
    )
    six = replace(BOX, networks=(replace(BLUE, group=addr(GROUP6)),))
    case("recover_another_ip_version", arriving(came), "ambiguous_group", lists=one, layout=six, **fields)
    to_six = vxlan(TENANT, PEER6, OWN6, ip={"ttl": 4}, chksum=None)
    six_list = (of_group(at_port(P0, GROUP6), group=GROUP6),)
    six_want = [leaving(P0, vxlan(TENANT, PEER6, GROUP6, ip={"ttl": 4}, chksum=None), GROUP6_MAC)]
    case("recover_ipv6", arriving(to_six), REPLICATE, lists=six_list, layout=six, copies=six_want, **fields)
    specific = (of_group(at_port(P0), source=PEER), of_group(at_port(P7)))
    case(
        "recover_outer_source_and_group",
        arriving(came),
        REPLICATE,
        lists=specific,
        copies=[leaving(P0, want, GROUP_MAC)],
        **fields,
    )
    spent = vxlan(TENANT, PEER, OWN, ip={"ttl": 0}, chksum=None)
    alive = [leaving(P0, vxlan(TENANT, PEER, GROUP, ip={"ttl": 1}, chksum=None), GROUP_MAC)]
    case("recover_and_raise_the_ttl", arriving(spent), REPLICATE, lists=one, copies=alive, **fields)


def network_cases() -> None:
    case("number_of_another_group", arriving(vxlan(TENANT, VTEP, GROUP, OTHER_VNI)), "wrong_group", note="N9")
    case("number_of_no_network", arriving(vxlan(TENANT, VTEP, GROUP, 0x42)), "wrong_group", note="N9")
    alien = (of_group(at_port(P0), group="239.5.5.5"),)
    case(
        "group_of_no_network",
        arriving(vxlan(TENANT, VTEP, "239.5.5.5", VNI)),
        "wrong_group",
        lists=alien,
        note="N9",
    )
    neither = arriving(vxlan(TENANT, VTEP, "239.5.5.5", 0x42))
    case("neither_is_known", neither, REPLICATE, lists=alien, note="N9")
    case("vsid_in_vxlan", arriving(vxlan(TENANT, VTEP, GROUP, VSID)), "wrong_group", note="N9")
    shared = replace(BOX, networks=(BLUE, replace(GREEN, group=addr(GROUP))))
    case(
        "two_networks_share_a_group",
        arriving(vxlan(TENANT, VTEP, GROUP, OTHER_VNI)),
        REPLICATE,
        layout=shared,
        note="N9",
    )
    maps = (GroupMap(ip_network("239.8.0.0/16"), addr(MAPPED)),)
    mapped = replace(BOX, networks=(replace(BLUE, maps=maps),))
    lists = (of_group(at_port(P0), group=MAPPED),)
    case(
        "a_mapped_group",
        arriving(vxlan(TENANT, VTEP, MAPPED)),
        REPLICATE,
        layout=mapped,
        lists=lists,
        note="N9",
    )
    case("unknown_group_before_wrong_group", arriving(vxlan(TENANT, VTEP, "239.5.5.5", VNI)), "unknown_group")
