"""The third form of N9: a network's maps send what its VMs say to an inner group to another outer one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from fastpath.model import (
    Egress,
    Encap,
    Form,
    GroupKey,
    GroupMap,
    KeyKind,
    Layout,
    Owner,
    ReplicationList,
    Scope,
)
from tests import frames as f
from tests.cases import box as b
from tests.unit.test_nve_frames import HOST, LISTS, TABLE, VM_A, VM_B, C, engine, out_ports
from tests.unit.test_snooping_frames import PARTED, run, sent_to, tunnelled

__all__ = ["engine"]


WIDE, LONG = "239.99.99.99", "239.88.88.88"
MAPS = (
    GroupMap(ip_network("239.0.0.0/8"), ip_address(WIDE)),
    GroupMap(ip_network("239.77.0.0/16"), ip_address(LONG)),
    GroupMap(ip_network("172.16.0.0/12"), ip_address(WIDE)),
)
MAPPING = replace(HOST, networks=(replace(b.BLUE, maps=MAPS), b.GREEN))


def to_outer(group: str) -> Egress:
    return Egress(b.CORE, Form.REWRITE, Owner(b.CORE), ip_address(group), ip_address(b.VTEP), Encap.VXLAN)


def of_map(group: str, encap: Encap = Encap.VXLAN, number: int = b.VNI) -> ReplicationList:
    """The list of what a network's maps send to a group."""
    key = GroupKey(Scope.NVE, KeyKind.GROUP, ip_address(group), None, encap, number)
    return ReplicationList(key, (b.at_vm(VM_A), b.at_vm(VM_B)), (to_outer(group),))


def key_of(make: Callable[..., Any], data: bytes, *lists: ReplicationList, layout: Layout = MAPPING) -> Any:
    return run(make(layout, None, lists), VM_A, data).key


def test_a_vms_frame_goes_to_the_group_of_the_longest_map_that_holds_its_inner_group(engine):
    """N9, third form."""
    box = engine(MAPPING, TABLE, (*LISTS, of_map(WIDE), of_map(LONG)))
    for group, outer in ((b.INNER_GROUP, LONG), ("239.1.2.3", WIDE), ("225.1.2.3", b.GROUP)):
        outcome = run(box, VM_A, sent_to(group))
        assert [copy.out_port for copy in outcome.copies] == [VM_B, b.CORE]
        assert outcome.copies[1].data[30:34] == ip_address(outer).packed


def test_a_tenants_group_is_more_special_than_a_map_and_the_number_less(engine):
    data = sent_to(b.INNER_GROUP)
    inner = b.of_number(b.NVE, b.VNI, b.at_vm(VM_B), group=b.INNER_GROUP)
    assert key_of(engine, data, *LISTS, of_map(LONG), inner) == inner.key
    assert key_of(engine, data, *LISTS, of_map(LONG)) == of_map(LONG).key
    assert key_of(engine, data, *LISTS, of_map(WIDE)) == LISTS[0].key
    assert key_of(engine, data, of_map(LONG)) == of_map(LONG).key


def test_a_map_is_for_frames_of_vms_to_groups_in_their_own_network(engine):
    lists = (*LISTS, of_map(WIDE), of_map(LONG))
    assert key_of(engine, sent_to("172.16.5.77"), *lists) == LISTS[0].key
    assert key_of(engine, f.arp(), *lists) == LISTS[0].key
    others = (of_map(LONG, Encap.NVGRE, b.VSID), of_map(LONG, number=b.OTHER_VNI))
    assert key_of(engine, sent_to(b.INNER_GROUP), *LISTS, *others) == LISTS[0].key
    unmapped = replace(HOST, networks=(b.BLUE, replace(b.GREEN, maps=MAPS)))
    assert key_of(engine, sent_to(b.INNER_GROUP), *lists, layout=unmapped) == LISTS[0].key
    heard = run(engine(MAPPING, None, lists), b.CORE, tunnelled(sent_to(b.INNER_GROUP), LONG))
    assert heard.key == LISTS[0].key


def test_unknown_unicast_is_not_mapped(engine):
    lists = (*LISTS, of_map(LONG))
    assert run(engine(MAPPING, TABLE, lists), VM_A, sent_to(b.INNER_GROUP, mac=C)).key == LISTS[0].key


def test_a_map_gives_no_tenant_what_he_did_not_ask_for(engine):
    """Rule 8.3 beside N9: up by the map's group, to no neighbour."""
    layout = replace(HOST, networks=(replace(PARTED.networks[0], maps=MAPS), b.GREEN))
    outcome = run(engine(layout, TABLE, (*LISTS, of_map(LONG))), VM_A, sent_to(b.INNER_GROUP))
    assert (outcome.key, out_ports(outcome)) == (of_map(LONG).key, [b.CORE])


def test_the_key_of_a_map_is_no_key_of_a_devices_group(engine):
    """One box: (group) of the device and (group, encap, number) of the NVE are two lists."""
    device = b.of_group(b.at_port(b.P7), group=LONG)
    assert key_of(engine, sent_to(b.INNER_GROUP), *LISTS, device) == LISTS[0].key
