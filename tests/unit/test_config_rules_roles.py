"""What takes two keys of [device] and [replicator] to judge, and what concerns both roles."""

import pytest

from tests.unit.marked import check_marked
from tests.unit.test_config import PORTS


def test_a_role_needs_a_port():
    check_marked("""[device]  # error: no [[port]] is given; expected one at least for an NVE, a device or a
address = "10.0.0.1"
""")
    check_marked("[manager]")


def test_one_address_serves_one_role():
    roles = '[device]\naddress = "10.0.0.1"\n[replicator]\naddress = "10.0.0.{}"{}\n{}\n'
    one = "  # error: replicator.address: 10.0.0.1 is also device.address, one address for two roles"
    check_marked(PORTS + roles.format(1, one, ""))
    check_marked(PORTS + roles.format(1, "", 'replicate = "10.0.0.2"'))
    check_marked(PORTS + roles.format(2, "", ""))
    two = (
        'replicate = "10.0.0.1"  # error: replicator.replicate: 10.0.0.1 is also device.address; expected an'
    )
    check_marked(PORTS + roles.format(2, "", two))
    check_marked(PORTS + roles.format(1, "", two))
    check_marked(PORTS + roles.format(1, "", "replicate = 5  # error: replicator.replicate: 5 given"))
    unread = "address = 5  # error: device.address: 5 given"
    check_marked(
        PORTS + roles.format(1, "", two).replace('address = "10.0.0.1"', unread, 1).replace(two, two[:22])
    )
    six = 'replicate = "::2"  # error: ::2 given, but address is 10.0.0.2; expected both of one IP version'
    check_marked(PORTS + roles.format(2, "", six))


def test_a_way_in_for_everyone_is_warned_about():
    check_marked(f"""
{PORTS}
[device]
address = "10.0.0.1"
allow_from = ["0.0.0.0/0"]  # warning: device.allow_from[0]: 0.0.0.0/0 lets any sender whatever
[replicator]
address = "10.0.0.2"
allow_from = ["::/0"]  # warning: replicator.allow_from[0]
""")


def test_a_device_needs_a_way_to_its_peers():
    port = '[[port]]\nname = "p1"\nfaces = "nve"\n'
    peer = '[[device.peer]]{}\ngroup = "239.1.1.1"\naddresses = ["10.0.0.2"]\n'
    device = '[device]{}\naddress = "10.0.0.1"\n'
    check_marked(port + device.format(""))  # a ToR without others has nowhere to send to, and is fine
    warned = '  # warning: device: no [[port]] has faces = "core", so nothing is tunnelled to other devices'
    managed = '[device]{}\naddress = "10.0.0.1"\nmanager = ["127.0.0.1:9470"]\n'
    check_marked(port + managed.format(warned))
    missing = '  # error: device.peer: no port leads to peers; expected a [[port]] with faces = "core"'
    check_marked(port + device.format("") + peer.format(missing))
    damaged = '[[port]]\nname = "core"\nfaces = "cor"  # error: port[1].faces\n'
    check_marked(port + damaged + device.format("") + peer.format(""))


def test_a_peer_is_another_box_of_our_ip_version_and_stands_once_in_a_group():
    check_marked(f"""
{PORTS}
address = "10.0.0.9/24"
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.1"
addresses = [
    "10.0.0.1",  # error: 10.0.0.1 is our own address (device.address); expected that of another device
    "10.0.0.9",  # error: 10.0.0.9 is our own address (port[1].address)
    "10.0.0.5",  # error: 10.0.0.5 is our own address (replicator.address)
    "10.0.0.6",  # error: 10.0.0.6 is our own address (replicator.replicate)
    "::2",  # error: ::2 is IPv6, but device.address is 10.0.0.1; expected an IPv4 address, since our own is
    "10.0.0.2",
    "10.0.0.2",  # error: 10.0.0.2 is given twice for 239.1.1.1, first in line 20
]
[[device.peer]]
group = "ff05::1"
addresses = ["10.0.0.2"]
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.2"]  # error: device.peer[2].addresses[0]: 10.0.0.2 is given twice for 239.1.1.1
[replicator]
address = "10.0.0.5"
replicate = "10.0.0.6"
""")


def test_a_peer_behind_a_port_that_faces_nves_alone_is_an_error():
    check_marked("""
[[port]]
name = "p1"
faces = "nve"
address = "10.1.0.1/24"
[[port]]
name = "core"
faces = "core"
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.1.0.2"]  # error: 10.1.0.2 is reached by port "p1", whose prefix holds it but which does not
""")


def test_rewriting_explains_its_source_and_keeps_to_the_ip_version_of_the_group():
    text = f"""
{PORTS}
[[network]]
name = "blue"
vni = 100
group = "239.1.1.1"
[[network.map]]
inner = "239.0.0.0/8"
group = "239.1.1.2"
[device]
address = "10.0.0.1"
tunnel = "rewrite"
%s
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.2"]
[[device.peer]]
group = "239.1.1.2"
addresses = ["10.0.0.2"]
[[device.peer]]
# warning: device.peer[2].group: ff05::1 is the group of no [[network]]; what the peers send back rewritten
group = "ff05::1"
# error: 10.0.0.2 is IPv4 for an IPv6 group; with tunnel = "rewrite" expected the group's IP version
addresses = ["10.0.0.2"]
"""
    check_marked(
        text % 'source = "keep"  # warning: device.source: copies leave with the NVE\'s own address as source'
    )
    check_marked(
        text % 'source = "own"  # warning: device.source: rewritten copies carry device.address as source'
    )
    check_marked(
        PORTS + '[device]\naddress = "10.0.0.1"\nsource = "keep"  # warning: device.source: is for tunnel ='
    )


def test_a_version_that_differs_from_ours_does_not_matter_where_the_source_is_kept():
    check_marked(f"""
{PORTS}
[[network]]
name = "blue"
vni = 100
group = "ff05::1"
[device]
address = "10.0.0.1"
tunnel = "rewrite"
source = "keep"  # warning: device.source
[[device.peer]]
group = "ff05::1"
addresses = ["2001:db8::2"]
""")


def test_members_are_behind_known_ports_that_face_nves():
    check_marked(f"""
{PORTS}
[[port]]
name = "p2"
faces = "nve"
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.2"]
[[device.member]]
group = "239.1.1.1"
port = "p11"  # error: device.member[0].port: no [[port]] is called "p11"; did you mean "p1"?
[[device.member]]
group = "239.1.1.1"
port = "core"  # error: device.member[1].port: port "core" does not face NVEs; expected one with "nve" in
nve = "10.1.1.9"
[[device.member]]
group = "239.1.1.1"
port = "p1"
[[device.member]]  # error: device.member[3]: "p1" is already a member of 239.1.1.1 in line 24
group = "239.1.1.1"
port = "p1"
[[device.member]]
group = "239.1.1.1"
port = "p1"
nve = "10.1.1.2"
[[device.member]]  # error: device.member[5]: "p1"/10.1.1.2 is already a member of 239.1.1.1 in line 30
group = "239.1.1.1"
port = "p1"
nve = "10.1.1.2"
[[device.member]]
group = "239.1.1.2"
port = "p2"
nve = "10.1.1.2"  # error: device.member[6].nve: 10.1.1.2 is already behind port "p1"; expected one port for
[[device.member]]
group = "239.1.1.1"
port = "p1"
nve = "10.0.0.1"  # error: device.member[7].nve: 10.0.0.1 is our own address (device.address); expected that
[[device.member]]
group = "239.1.1.1"
port = "p1"
nve = "10.0.0.2"  # error: 10.0.0.2 is also a peer; an address is either a local NVE or a remote peer
[[device.member]]
group = "ff05::1"
port = "p1"
nve = "10.1.1.3"  # error: 10.1.1.3 is IPv4, but the group is ff05::1; expected the group's IP version
""")


@pytest.mark.parametrize(
    ("nve_mtu", "core_mtu", "address", "warned"),
    [
        (
            0,
            1500,
            "10.0.0.1",
            "1500 is too small for nested tunnels: they add 32 bytes, so full-size frames of VMs",
        ),
        (0, 1581, "10.0.0.1", "expected 1582 or more, say 1600"),
        (0, 1582, "10.0.0.1", ""),
        (0, 1582, "2001:db8::1", "they add 52 bytes"),
        (0, 1602, "2001:db8::1", ""),
        (0, 0, "10.0.0.1", ""),
        (
            9000,
            9000,
            "10.0.0.1",
            "so packets of 9000 bytes from the NVEs are dropped (over_mtu); expected 9032 or more",
        ),
        (9000, 9032, "10.0.0.1", ""),
        (1400, 1432, "10.0.0.1", ""),
    ],
)
def test_a_core_too_small_for_nested_tunnels_is_warned_about(nve_mtu, core_mtu, address, warned):
    peer = "10.0.0.2" if "." in address else "2001:db8::2"
    check_marked(f"""
[[port]]
name = "p1"
faces = "nve"
mtu = {nve_mtu}
[[port]]
name = "core"
faces = ["core", "nve"]
mtu = {core_mtu}  # {warned and "warning: " + warned}
[device]
address = "{address}"
[[device.peer]]
group = "239.1.1.1"
addresses = ["{peer}"]
""")


def test_a_list_is_by_one_of_group_vni_and_vsid_and_of_each_there_is_one():
    check_marked(f"""
{PORTS}
[replicator]
address = "10.0.0.9"
[[replicator.list]]  # error: replicator.list[0]: no key given; expected exactly one of group, vni and vsid
addresses = ["10.0.0.1"]
[[replicator.list]]  # error: replicator.list[1]: group and vsid given; expected exactly one of group, vni
group = "239.1.1.1"
vsid = 5000
addresses = ["10.0.0.1"]
[[replicator.list]]
group = "239.1.1.1"
addresses = ["10.0.0.1"]
[[replicator.list]]
group = "239.1.1.1"  # error: replicator.list[3].group: 239.1.1.1 already has a list, in line 17
addresses = ["10.0.0.1"]
[[replicator.list]]
vni = 100
addresses = ["10.0.0.1", {{ address = "10.0.0.2", encap = "nvgre", vni = 5000 }}]
[[replicator.list]]
vsid = 5000  # error: replicator.list[5].vsid: NVGRE 5000 already has a list, in line 23
addresses = ["10.0.0.1"]
[[replicator.list]]
vni = 5000
addresses = ["10.0.0.1"]
[[replicator.list]]
vni = -1  # error: replicator.list[7].vni: -1 given
addresses = ["10.0.0.1"]
""")


def test_receivers_are_other_boxes_of_our_ip_version_once_each():
    check_marked(f"""
{PORTS}
[replicator]
address = "10.0.0.9"
replicate = "10.0.0.8"
[[replicator.list]]
group = "239.1.1.1"
addresses = [
    "10.0.0.9",  # error: 10.0.0.9 is our own address (replicator.address); expected that of another box:
    "10.0.0.8",  # error: 10.0.0.8 is our own address (replicator.replicate)
    "2001:db8::1",  # error: 2001:db8::1 is IPv6, but replicator.address is 10.0.0.9; expected one IP version
    "10.0.0.1",
    "10.0.0.1",  # error: replicator.list[0].addresses[4]: 10.0.0.1 is given twice in this list
]
""")
    check_marked("""
[[port]]
name = "p1"
faces = "nve"
[replicator]
address = "10.0.0.9"
[[replicator.list]]  # error: replicator.list: no port leads to receivers; expected a [[port]] with faces
group = "239.1.1.1"
addresses = ["10.0.0.1"]
""")


def test_a_list_by_group_leaves_nothing_to_choose():
    check_marked(f"""
{PORTS}
[replicator]
address = "10.0.0.9"
[[replicator.list]]
group = "239.1.1.1"
encap = "vxlan"  # error: replicator.list[0].encap: given in a list by group, whose copies are nested
source = "own"  # error: replicator.list[0].source: given in a list by group
# error: replicator.list[0].addresses[0].encap: given in a list by group
# error: replicator.list[0].addresses[0].vni: given in a list by group
# error: replicator.list[0].addresses[0].source: given in a list by group
addresses = [{{ address = "10.0.0.1", encap = "vxlan", vni = 1, source = "keep" }}]
""")


def test_w2_numbers_of_lists_are_legal_in_their_encapsulation():
    check_marked(f"""
{PORTS}
[[network]]
name = "blue"
vni = 300
vsid = 6000
[replicator]
address = "10.0.0.9"
[[replicator.list]]
vsid = 5000
encap = "vxlan"  # error: replicator.list[0].encap: "vxlan" given with vsid, which is a number of NVGRE;
addresses = ["10.0.0.1"]
[[replicator.list]]
vni = 100  # error: replicator.list[1].vni: 100 cannot be an NVGRE number; expected 4096 to 16777214
encap = "nvgre"
addresses = ["10.0.0.1"]
[[replicator.list]]
vni = 200
addresses = [
    {{ address = "10.0.0.1", encap = "nvgre" }},  # error: addresses[0].encap: 200 cannot be an NVGRE number
    {{ address = "10.0.0.2", encap = "nvgre", vni = 7 }},  # error: addresses[1].vni: 7 cannot be an NVGRE
    {{ address = "10.0.0.3", encap = "nvgre", vni = -1 }},  # error: addresses[2].vni: -1 given
]
[[replicator.list]]
vni = 300
addresses = [{{ address = "10.0.0.1", encap = "nvgre" }}]
[[replicator.list]]
vsid = 7000
addresses = [{{ address = "10.0.0.1", vni = 8 }}]  # error: addresses[0].vni: 8 cannot be an NVGRE number
""")


def test_a_list_outside_of_the_points_vnis_and_an_own_source_are_warned_about():
    check_marked(f"""
{PORTS}
[replicator]
address = "10.0.0.9"
vnis = ["100-199", 300]
[[replicator.list]]
vni = 199
source = "own"  # warning: replicator.list[0].source: copies carry replicator.address as source: a receiver
addresses = ["10.0.0.1", "10.0.0.2"]
[[replicator.list]]
vni = 200  # warning: replicator.list[1].vni: VXLAN 200 is outside replicator.vnis, so its frames are dropped
addresses = ["10.0.0.1"]
[[replicator.list]]
vni = 300
addresses = [
    "10.0.0.1",
    {{ address = "10.0.0.2", source = "own" }},  # warning: replicator.list[2].addresses[1].source: copies
]
""")
