"""Section 4: copies to the group, as they came and made anew."""

from __future__ import annotations

from dataclasses import replace

from scapy.layers.l2 import Ether

from fastpath.model import Encap
from tests import frames as f
from tests.cases.box import (
    BARE,
    BLUE,
    BOX,
    CORE,
    GROUP,
    GROUP6,
    GROUP6_MAC,
    GROUP_MAC,
    OWN,
    P0,
    P7,
    PEER,
    PORTS,
    VNI,
    VSID,
    VTEP,
    VTEP6,
    addr,
    at_port,
    of_only,
)
from tests.cases.entry import REPLICATE, case
from tests.cases.made import (
    CAME_6,
    CAME_GRE,
    FROM_NVE,
    NVE_IP,
    OURS,
    OURS_TOO,
    TAGGED,
    TENANT,
    TENANT_FLOW_ID,
    TENANT_PORT,
    arriving,
    from_nve,
    leaving,
    mac_text,
    nested,
    nvgre,
    vxlan,
)


def group_cases() -> None:
    spent = vxlan(TENANT, VTEP, GROUP, ip={"ttl": 0, "id": 9}, chksum=None)
    alive = vxlan(TENANT, VTEP, GROUP, ip={"ttl": 1, "id": 9}, chksum=None)
    case(
        "ttl_0_becomes_1",
        arriving(spent),
        REPLICATE,
        lists=of_only(at_port(P0)),
        copies=[leaving(P0, alive, GROUP_MAC)],
        note="W6",
    )
    case(
        "ttl_1_is_kept",
        arriving(FROM_NVE),
        REPLICATE,
        lists=of_only(at_port(P0)),
        copies=[leaving(P0, FROM_NVE, GROUP_MAC)],
        note="W6 D9: bit for bit",
    )
    spent6 = vxlan(TENANT, VTEP6, GROUP6, ip={"ttl": 0}, chksum=None)
    alive6 = vxlan(TENANT, VTEP6, GROUP6, ip={"ttl": 1}, chksum=None)
    six_lists = of_only(at_port(P0, GROUP6), group=GROUP6)
    case(
        "hop_limit_0_becomes_1",
        arriving(spent6),
        REPLICATE,
        layout=BARE,
        lists=six_lists,
        copies=[leaving(P0, alive6, GROUP6_MAC)],
        note="W6",
    )
    inside_spent = arriving(nested(spent, PEER, OWN, ttl=60))
    case(
        "ttl_0_inside_becomes_1",
        inside_spent,
        REPLICATE,
        in_port=CORE,
        lists=of_only(at_port(P0)),
        copies=[leaving(P0, alive, GROUP_MAC)],
        note="W6",
    )
    for name, more in (
        ("its_own", {"encap": Encap.VXLAN, "vni": VNI}),
        ("number_alone", {"vni": VNI}),
        ("encap_alone", {"encap": Encap.VXLAN}),
    ):
        case(
            f"group_{name}",
            arriving(FROM_NVE),
            REPLICATE,
            lists=of_only(at_port(P0, **more)),
            copies=[leaving(P0, FROM_NVE, GROUP_MAC)],
        )
    gre_copy = leaving(P7, nvgre(TENANT, VTEP, GROUP, VSID, TENANT_FLOW_ID, **OURS_TOO), GROUP_MAC)
    case(
        "group_vxlan_to_nvgre",
        arriving(FROM_NVE),
        REPLICATE,
        lists=of_only(at_port(P7, encap=Encap.NVGRE)),
        copies=[gre_copy],
        note="W2",
    )
    case(
        "group_vxlan_to_nvgre_unknown_network",
        arriving(FROM_NVE),
        REPLICATE,
        layout=BARE,
        lists=of_only(at_port(P7, encap=Encap.NVGRE)),
        copies=[leaving(P7, nvgre(TENANT, VTEP, GROUP, VNI, TENANT_FLOW_ID, **OURS_TOO), GROUP_MAC)],
    )
    back = leaving(P0, vxlan(TENANT, VTEP, GROUP, VNI, ip=OURS_TOO, sport=TENANT_PORT), GROUP_MAC)
    case(
        "group_nvgre_to_vxlan",
        arriving(CAME_GRE),
        REPLICATE,
        lists=of_only(at_port(P0, encap=Encap.VXLAN)),
        copies=[back],
        note="W1 W2",
    )
    renumbered = leaving(P0, vxlan(TENANT, VTEP, GROUP, 0x717273, ip=OURS_TOO, sport=TENANT_PORT), GROUP_MAC)
    case(
        "group_another_number",
        arriving(FROM_NVE),
        REPLICATE,
        lists=of_only(at_port(P0, encap=Encap.VXLAN, vni=0x717273)),
        copies=[renumbered],
    )
    own_source = at_port(P0, encap=Encap.VXLAN, vni=0x717273, source=addr(OWN))
    from_us = leaving(P0, vxlan(TENANT, OWN, GROUP, 0x717273, ip=OURS_TOO, sport=TENANT_PORT), GROUP_MAC)
    case(
        "group_made_anew_from_us", arriving(FROM_NVE), REPLICATE, lists=of_only(own_source), copies=[from_us]
    )
    two_vnis = replace(BOX, networks=(replace(BLUE, name="first", vsid=0x444546), BLUE))
    first = leaving(P7, nvgre(TENANT, VTEP, GROUP, 0x444546, TENANT_FLOW_ID, **OURS_TOO), GROUP_MAC)
    case(
        "translation_takes_the_first_network",
        arriving(FROM_NVE),
        REPLICATE,
        layout=two_vnis,
        lists=of_only(at_port(P7, encap=Encap.NVGRE)),
        copies=[first],
    )
    wrong_version = replace(at_port(P7, encap=Encap.NVGRE), version=6)
    case(
        "group_of_another_version",
        arriving(FROM_NVE),
        REPLICATE,
        lists=of_only(wrong_version),
        copies=[],
        drops={"no_header": 1},
    )
    case(
        "group_of_another_version_as_it_came",
        arriving(FROM_NVE),
        REPLICATE,
        lists=of_only(replace(at_port(P7), version=6)),
        copies=[leaving(P7, FROM_NVE, GROUP_MAC)],
    )
    six_anew = replace(at_port(P7, GROUP6, encap=Encap.VXLAN), vni=0x010305)
    want6 = vxlan(
        TENANT, VTEP6, GROUP6, 0x010305, ip={"ttl": 64, "tos": 0x28}, sport=TENANT_PORT, chksum=None
    )
    case(
        "group_made_anew_ipv6",
        arriving(CAME_6),
        REPLICATE,
        layout=BARE,
        lists=of_only(six_anew, group=GROUP6),
        copies=[leaving(P7, want6, GROUP6_MAC)],
        note="W4",
    )
    eighth = replace(BOX, vxlan_ports=(8472, 4789))
    other_port = vxlan(TENANT, VTEP, GROUP, 0x717273, ip=OURS_TOO, sport=TENANT_PORT, dport=8472)
    copy8472 = bytes(Ether(dst=GROUP_MAC, src=mac_text(PORTS[P0].mac)) / other_port)
    case(
        "made_anew_for_the_first_vxlan_port",
        arriving(FROM_NVE),
        REPLICATE,
        layout=eighth,
        lists=of_only(at_port(P0, encap=Encap.VXLAN, vni=0x717273)),
        copies=[(P0, copy8472)],
    )
    reserved = from_nve(header={"flags": 0xFF, "reserved": 0xABCDEF, "last": 0x55})
    clean = leaving(P0, vxlan(TENANT, VTEP, GROUP, 0x717273, ip=OURS, sport=TENANT_PORT), GROUP_MAC)
    case(
        "reserved_bits_are_zero_in_headers_we_make",
        reserved,
        REPLICATE,
        lists=of_only(at_port(P0, encap=Encap.VXLAN, vni=0x717273)),
        copies=[clean],
        note="W1",
    )


def vsid_cases() -> None:
    no_vsid = replace(BOX, networks=(replace(BLUE, vsid=None),))
    to_gre = of_only(at_port(P7, encap=Encap.NVGRE), at_port(P0))
    kept = [leaving(P0, FROM_NVE, GROUP_MAC)]
    case(
        "no_vsid",
        arriving(FROM_NVE),
        REPLICATE,
        layout=no_vsid,
        lists=to_gre,
        copies=kept,
        drops={"no_vsid": 1},
        note="W2",
    )
    small_vni = arriving(vxlan(TENANT, VTEP, GROUP, 0xFFF))
    case(
        "a_vni_that_is_no_vsid",
        small_vni,
        REPLICATE,
        layout=BARE,
        lists=of_only(at_port(P7, encap=Encap.NVGRE)),
        copies=[],
        drops={"no_vsid": 1},
        note="W2",
    )
    asked = of_only(at_port(P7, encap=Encap.NVGRE, vni=0xFFFFFF))
    case(
        "a_reserved_vsid_asked_for",
        arriving(FROM_NVE),
        REPLICATE,
        lists=asked,
        copies=[],
        drops={"no_vsid": 1},
        note="W2",
    )
    tagged = vxlan(TAGGED, VTEP, GROUP, ip=NVE_IP)
    case(
        "tag_in_nvgre",
        arriving(tagged),
        REPLICATE,
        lists=to_gre,
        copies=[leaving(P0, tagged, GROUP_MAC)],
        drops={"tag_in_nvgre": 1},
        note="W2",
    )
    case(
        "tag_before_vsid",
        arriving(tagged),
        REPLICATE,
        layout=no_vsid,
        lists=of_only(at_port(P7, encap=Encap.NVGRE)),
        copies=[],
        drops={"tag_in_nvgre": 1},
    )
    service = arriving(vxlan(f.tenant(tags=[(f.SERVICE_TAG, 1)]), VTEP, GROUP))
    case(
        "service_tag_in_nvgre",
        service,
        REPLICATE,
        lists=of_only(at_port(P7, encap=Encap.NVGRE)),
        copies=[],
        drops={"tag_in_nvgre": 1},
        note="W2",
    )
