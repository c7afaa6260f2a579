"""Our own NVE's unicast: frames to a known MAC go where it is, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from fastpath.model import Encap, Endpoint, Faces
from tests import frames as f
from tests.cases import box as b
from tests.unit.edges import (
    BLUE,
    BROADCAST,
    FAR,
    GREEN,
    LAYOUT,
    LISTS,
    MAC_A,
    MAC_B,
    MAC_C,
    NEAR,
    UP,
    VM1,
    VM2,
    Edge,
    far,
    known,
    memory_ports,
    to,
    to_group,
    tunnelled,
)


def test_a_frame_to_a_vm_in_the_same_box_goes_to_its_port_alone():
    edge = known()
    edge.push(VM1, to(MAC_B, MAC_A))
    edge.forwarder.run()
    assert edge.taken() == [[], [], [to(MAC_B, MAC_A)], []]
    assert edge.forwarder.statistics().unknown_unicast == 0


def test_a_frame_to_a_known_vtep_is_sent_there_and_to_nobody_else():
    """N1, N2: one outer packet, made anew, from our own address."""
    edge = known()
    edge.push(VM1, to(MAC_C, MAC_A))
    edge.forwarder.run()
    up, *vms = edge.taken()
    assert vms == [[], [], []]
    assert [(copy[26:30], copy[30:34], copy[50:]) for copy in up] == [
        (f.address(b.VTEP), f.address(FAR), to(MAC_C, MAC_A))
    ]
    assert up[0][46:49] == b.VNI.to_bytes(3, "big")


def test_a_frame_from_a_vtep_goes_to_the_port_of_its_vm_alone():
    assert known().send(UP, tunnelled(to(MAC_A, MAC_C), FAR)) == [0, 1, 0, 0]
    assert known().send(UP, tunnelled(to(MAC_A, MAC_C), FAR, b.GROUP)) == [0, 1, 0, 0]


def test_a_frame_from_a_tunnel_is_never_sent_to_a_tunnel():
    """N2: neither where its MAC is at another VTEP, nor where it is at the one it came from."""
    edge = known()
    assert edge.send(UP, tunnelled(to(MAC_C, MAC_A), NEAR), tunnelled(to(MAC_C, MAC_A), FAR)) == [0] * 4
    assert edge.drops() == {"no_receiver": 2}


def test_a_frame_is_not_sent_back_to_the_port_it_came_by():
    edge = known()
    assert edge.send(VM1, to(MAC_A, MAC_B)) == [0] * 4
    assert edge.drops() == {"no_receiver": 1}


def test_a_frame_to_an_unknown_mac_goes_to_all_and_is_counted():
    """N1: to the whole list of its number; inner groups are not looked at."""
    snooped = b.of_number(b.NVE, b.VNI, b.at_vm(VM2), group=b.INNER_GROUP)
    edge = Edge(lists=(*LISTS, snooped))
    assert edge.send(VM1, to(MAC_B, MAC_A)) == [1, 0, 1, 0]
    assert edge.send(UP, tunnelled(to(MAC_B, MAC_C))) == [0, 1, 1, 0]
    assert edge.send(VM1, f.tenant(dst_mac=MAC_C)) == [1, 0, 1, 0]
    assert edge.send(VM1, f.tenant()) == [0, 0, 1, 0]
    assert edge.send(VM1, to(BROADCAST, MAC_A), to(bytes(6), MAC_A)) == [2, 0, 2, 0]
    counted = edge.forwarder.statistics()
    assert (counted.unknown_unicast, counted.replicated) == (4, 6)


def test_an_unknown_mac_without_a_list_is_dropped_and_not_counted():
    edge = Edge(lists=LISTS[1:])
    assert edge.send(VM1, to(MAC_B, MAC_A)) == [0] * 4
    assert edge.drops() == {"unknown_vni": 1}
    assert edge.forwarder.statistics().unknown_unicast == 0


def test_without_a_table_every_frame_goes_to_the_whole_list():
    edge = Edge(max_macs=0, max_vteps=0)
    assert edge.send(VM1, to(MAC_B, MAC_A)) == [1, 0, 1, 0]
    assert edge.forwarder.statistics().unknown_unicast == 0
    assert (edge.drops(), edge.forwarder.learn_fds) == ({}, ())


def test_a_mac_is_known_in_its_own_network_alone():
    edge = known()
    assert edge.send(GREEN, to(MAC_B, MAC_A)) == [1, 0, 0, 0]
    assert edge.forwarder.statistics().unknown_unicast == 1


def test_no_entry_leads_into_another_network():
    """Nor to a port that has no VMs, or that there is not."""
    edge = Edge()
    for mac, port in (MAC_A, GREEN), (MAC_B, UP), (MAC_C, 255):
        edge.forwarder.macs.put(b.VNI, mac, port)
        assert edge.send(VM1, to(mac, b.PORTS[0].mac)) == [1, 0, 1, 0]
    assert edge.forwarder.statistics().unknown_unicast == 3


def test_a_network_has_one_domain_for_both_of_its_numbers():
    """What is known from VXLAN holds for frames by NVGRE, of the same network."""
    edge = known()
    gre = f.wire(f.nvgre_packet(to(MAC_A, MAC_C), FAR, b.VTEP, b.VSID))
    other = f.wire(f.nvgre_packet(to(MAC_A, MAC_C), FAR, b.VTEP, b.OTHER_VSID))
    assert edge.send(UP, gre) == [0, 1, 0, 0]
    assert edge.send(UP, other) == [0, 0, 0, 1]
    assert {(one.vni, one.encap) for one in edge.learned()} == {
        (b.VNI, Encap.NVGRE),
        (b.OTHER_VNI, Encap.NVGRE),
    }


def test_a_vtep_by_nvgre_gets_the_other_number_of_the_network():
    edge = Edge()
    edge.forwarder.macs.put(b.VNI, MAC_C, edge.forwarder.vtep(far(FAR, Encap.NVGRE)))
    edge.push(VM1, to(MAC_C, MAC_A))
    edge.forwarder.run()
    (copy,) = edge.taken()[UP]
    assert (copy[30:34], copy[36:38], copy[38:41]) == (f.address(FAR), b"\x65\x58", b.VSID.to_bytes(3, "big"))


def test_tagged_frames_go_by_their_macs_too():
    """The tag of a VM stays in the frame; the domain is the network's all the same."""
    edge = known()
    tagged = f.ethernet(bytes(46), 0x88B5, MAC_B, MAC_A, tags=((0x8100, 7),))
    edge.push(VM1, tagged)
    edge.forwarder.run()
    assert edge.taken() == [[], [], [tagged], []]


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_frames_of_one_batch_go_each_its_own_way(batch):
    edge = known(batch=batch)
    frames = [to(MAC_B, MAC_A), to(MAC_C, MAC_A), to(BROADCAST, MAC_A), to(b.PORTS[0].mac, MAC_A)] * 64
    assert edge.send(VM1, *frames) == [192, 0, 192, 0]


def test_our_own_nve_hears_the_device_beside_it():
    """The device has an address of its own; what it hears from our NVE's has not come back."""
    device = Endpoint(b.addr(b.OWN), b.DEVICE)
    layout = replace(
        LAYOUT,
        ports=(*LAYOUT.ports, b.make_port(4, Faces.NVE)),
        endpoints=(*LAYOUT.endpoints, device),
    )
    edge = Edge(layout=layout, lists=(*LISTS, b.of_group(b.at_port(4), b.at_port(UP))))
    assert edge.send(4, tunnelled(to(BROADCAST, MAC_A), b.VTEP, b.GROUP)) == [1, 0, 0, 0, 0]
    assert edge.send(UP, tunnelled(to(BROADCAST, MAC_A), b.VTEP, b.GROUP)) == [0] * 5
    assert edge.send(UP, tunnelled(to(BROADCAST, MAC_A), b.OWN, b.GROUP)) == [0] * 5
    assert edge.drops() == {"own_source": 2}


# --- stations -----------------------------------------------------------------------------------------------


def test_a_vtep_is_one_station_however_often_it_is_asked_for():
    edge = Edge()
    first, second = edge.forwarder.vtep(far(NEAR)), edge.forwarder.vtep(far(FAR))
    assert [edge.forwarder.vtep(far(vtep)) for vtep in (NEAR, FAR)] == [first, second] == [256, 257]
    assert edge.forwarder.vtep(far(NEAR, Encap.NVGRE)) == 258


def test_there_is_room_for_as_many_vteps_as_was_said():
    edge = Edge(max_vteps=2)
    edge.forwarder.vtep(far(NEAR))
    edge.forwarder.vtep(far(FAR))
    with pytest.raises(ValueError, match=r"there are 2 VTEPs, and room for no more"):
        edge.forwarder.vtep(far("10.0.0.4"))
    with pytest.raises(ValueError, match="expected a REWRITE to an address"):
        edge.forwarder.vtep(b.at_vm(VM1))
    with pytest.raises(ValueError, match="station 258: there is no such VTEP"):
        edge.forwarder.set_vtep(258, far("10.0.0.4"))
    with pytest.raises(ValueError, match="that is station 256, not 257"):
        edge.forwarder.set_vtep(257, far(NEAR))
    with pytest.raises(ValueError, match="max_vteps -1"):
        Edge(max_vteps=-1)


def test_a_vtep_whose_way_changes_stays_the_station_that_it_is():
    layout = replace(LAYOUT, ports=(*LAYOUT.ports, b.make_port(4, Faces.CORE)))
    edge = Edge(layout=layout)
    station = edge.forwarder.vtep(far(FAR))
    edge.forwarder.macs.put(b.VNI, MAC_C, station)
    assert edge.send(VM1, to(MAC_C, MAC_A)) == [1, 0, 0, 0, 0]
    assert edge.forwarder.vtep(replace(far(FAR), out_port=4)) == station
    assert edge.send(VM1, to(MAC_C, MAC_A)) == [0, 0, 0, 0, 1]
    edge.forwarder.set_vtep(station, far(FAR))
    assert edge.send(VM1, to(MAC_C, MAC_A)) == [1, 0, 0, 0, 0]


def test_a_station_given_to_another_vtep_begins_anew():
    """Senders come and go for ever: neither stations nor egresses become more by that."""
    edge = Edge(max_vteps=1)
    station, vtep = edge.forwarder.vtep(far(NEAR)), NEAR
    edge.forwarder.macs.put(b.VNI, MAC_C, station)
    for number in range(1, 200):
        vtep = f"10.9.0.{number}"
        assert edge.forwarder.macs.clear_station(station) == [(b.VNI, MAC_C)]
        edge.forwarder.set_vtep(station, far(vtep))
        edge.forwarder.macs.put(b.VNI, MAC_C, station)
        edge.push(VM1, to(MAC_C, MAC_A))
        edge.forwarder.run()
        (copy,) = edge.taken()[UP]
        assert (copy[30:34], copy[18:20]) == (f.address(vtep), b"\0\0")
    assert edge.forwarder._compiler.fib.n_egresses < 10
    assert len(edge.forwarder._compiler._egresses_to) < 10
    rows = [row for row in edge.forwarder.statistics().egresses if row.egress.owner == far(vtep).owner]
    assert [(row.egress, row.copies) for row in rows] == [(far(vtep), 1)]


def test_a_vtep_that_a_list_names_too_keeps_its_egress_and_counts_on():
    """Equal egresses are one: identifications go on where a list and a station share one."""
    edge = Edge(max_vteps=1)
    station = edge.forwarder.vtep(far(FAR))
    edge.forwarder.macs.put(b.VNI, MAC_C, station)
    edge.forwarder.publish([replace(BLUE, remote=(far(FAR),))])
    edge.send(VM1, to(MAC_C, MAC_A), to(BROADCAST, MAC_A))
    edge.forwarder.set_vtep(station, far(NEAR))
    edge.push(VM1, to(BROADCAST, MAC_A))
    edge.push(VM1, to(MAC_C, MAC_A))
    edge.forwarder.run()
    assert [(copy[30:34], copy[18:20]) for copy in edge.taken()[UP]] == [
        (f.address(FAR), b"\0\2"),
        (f.address(NEAR), b"\0\0"),
    ]


def test_a_station_goes_by_the_next_hop_of_its_address():
    edge = known()
    edge.forwarder.resolve({(UP, ip_address(FAR)): b"\x02\xcc\xcc\xcc\xcc\xcc"})
    edge.push(VM1, to(MAC_C, MAC_A))
    edge.forwarder.run()
    assert [copy[:6] for copy in edge.taken()[UP]] == [b"\x02\xcc\xcc\xcc\xcc\xcc"]
    edge.forwarder.resolve({(UP, ip_address(FAR)): None})
    assert edge.send(VM1, to(MAC_C, MAC_A)) == [0] * 4
    assert edge.drops() == {"no_neighbour": 1}


def test_a_new_vm_port_is_a_station_at_once_and_an_old_one_goes_with_its_port():
    edge = known()
    mac = bytes.fromhex("02fa57999999")
    ports = [replace(port, mac=mac) if place == UP else port for place, port in enumerate(LAYOUT.ports)]
    ports[VM2] = replace(ports[VM2], network="green")
    layout = replace(LAYOUT, ports=(*ports, b.make_port(4, Faces.VM, network="blue")))
    edge.forwarder.macs.put(b.VNI, b.PORTS[0].mac, 4)
    edge.ports += memory_ports(1)
    edge.forwarder.set_ports(replace(layout, ports=(*LAYOUT.ports, layout.ports[4])), [edge.ports])
    edge.forwarder.relayout(layout, [])
    for port in edge.ports[VM1:]:
        port.clear()
    edge.ports[VM1].receive(to(b.PORTS[0].mac, MAC_A), to(MAC_C, MAC_A), to(MAC_B, MAC_A))
    edge.forwarder.run()
    up, *vms = edge.taken()
    assert [len(copies) for copies in vms] == [0, 1, 0, 1]
    assert [copy[6:12] for copy in up] == [mac, mac]
    assert edge.forwarder.statistics().unknown_unicast == 1


def test_a_port_that_is_down_takes_no_frames_of_its_vms():
    down = [replace(port, is_up=place != VM2) for place, port in enumerate(LAYOUT.ports)]
    edge = known()
    edge.forwarder.relayout(replace(LAYOUT, ports=tuple(down)), [])
    assert edge.send(VM1, to(MAC_B, MAC_A)) == [0] * 4
    assert edge.drops() == {"link_down": 1}


def test_the_group_is_no_station_and_lists_are_left_as_they_are():
    """Frames to stations count for no list, copies to the group for its own egress."""
    edge = known()
    edge.send(VM1, to(MAC_B, MAC_A), to(MAC_C, MAC_A), to(BROADCAST, MAC_A))
    counted = edge.forwarder.statistics()
    assert {row.key: row.frames for row in counted.lists if row.frames} == {BLUE.key: 1}
    assert {row.egress: row.copies for row in counted.egresses} == {
        b.at_vm(VM2): 2,
        far(FAR): 1,
        to_group(): 1,
    }
