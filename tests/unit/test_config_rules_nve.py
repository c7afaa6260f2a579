"""What takes two keys of [nve], the ports of its VMs and internal ports to judge."""

import pytest

from tests.unit.marked import check_marked

UP = '[[port]]\nname = "up"\nfaces = "core"\n'
VM = '[[port]]\nname = "vm1"\nkind = "tap"\nfaces = "vm"\nnetwork = "blue"\n'
BLUE = '[[network]]\nname = "blue"\nvni = 5001\ngroup = "239.1.1.1"\n'
NVE = '[nve]\naddress = "10.1.1.2"\n'
WHOLE = NVE + BLUE + UP + VM


def check_end(text: str) -> None:
    """Check a text behind a whole NVE."""
    check_marked(WHOLE + text)


def test_an_nve_with_an_uplink_and_a_vm_of_a_network_is_whole():
    config = check_marked(WHOLE).config
    assert config
    assert config.roles == ("nve",)
    assert config.nve
    assert (config.nve.send_to, config.nve.ageing_s, config.nve.max_macs) == ((), 300, 65536)


@pytest.mark.parametrize("faces", ['"nve"', '["nve", "core"]'])
def test_an_nve_takes_a_port_that_faces_the_core_alone(faces):
    check_marked(f"""
[nve]  # error: nve: no port leads to the network device; expected a [[port]] with faces = "core" alone
address = "10.1.1.2"
[[port]]
name = "p1"
faces = {faces}
{BLUE}{VM}""")


def test_an_nve_without_vms_is_warned_about_and_one_without_ports_is_none():
    check_marked('[nve]  # warning: nve: no [[port]] has faces = "vm"\naddress = "10.1.1.2"\n' + UP)
    check_marked('node = "a"  # error: no [[port]] is given; expected one at least for an NVE\n' + NVE)


def test_vm_ports_take_an_nve():
    check_marked(f"""
[manager]
[[port]]
name = "vm1"
faces = "vm"  # error: port[0].faces: "vm" given without an [nve], whose VMs these are; expected one
network = "blue"
{BLUE}""")


def test_the_encap_of_vms_is_that_of_their_network():
    check_end("""
encap = "nvgre"  # error: port[1].encap: given; expected only where NVEs are: frames of VMs leave in the encap
""")


def test_a_port_of_vms_without_a_network_is_said_to_lack_it_and_nothing_else():
    check_marked(f"""
{NVE}{BLUE}{UP}
[[port]]  # error: port[1]: network is missing
name = "vm1"
faces = "vm"
""")


def test_what_guards_vms_is_for_ports_of_vms():
    check_marked("""
[manager]
[[port]]
name = "p1"
faces = "nve"
macs = ["02:00:00:00:00:01"]  # error: port[0].macs: given; expected only where faces = "vm"
tagged = "keep"  # error: port[0].tagged: given; expected only where faces = "vm"
[port.storm]  # error: port[0].storm: given; expected only where faces = "vm"
unknown_pps = 5
""")


@pytest.mark.parametrize(
    "line",
    [
        'macs = ["02:00:00:00:00:01", "02-00-00-00-00-01"]  # error: macs[1]: 02:00:00:00:00:01 is given',
        'macs = ["01:00:5e:00:00:01"]  # error: port[1].macs[0]: "01:00:5e:00:00:01" is a group address',
        'tagged = "pop"  # error: port[1].tagged: "pop" given; expected "keep" or "drop"',
        "[port.storm]\nbroadcast_pps = -1  # error: port[1].storm.broadcast_pps: -1 given; expected a number",
        "[port.storm]\narp_pps = 1  # error: [port.storm] takes broadcast_pps, multicast_pps or unknown_pps",
    ],
)
def test_guards_that_cannot_be_are_refused(line):
    check_end(line + "\n")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            'send_to = "groups"',
            '"groups" is not an IP address; expected "group", a unicast address or a list',
        ),
        ('send_to = "239.1.1.1"', '"239.1.1.1" is a multicast group'),
        ("send_to = []", "[] given"),
        ("send_to = 5", "5 given"),
        ('send_to = "10.1.1.2"', "10.1.1.2 is our own address (nve.address); expected that of another VTEP"),
        (
            'send_to = "2001:db8::1"',
            "2001:db8::1 is IPv6, but nve.address is 10.1.1.2; expected one IP version",
        ),
        ('send_to = ["10.0.0.2", "10.0.0.2"]', "10.0.0.2 is given twice"),
        ("ageing_s = 0.5", "0.5 given; expected seconds, from 1 to 86400"),
        ("max_macs = 0", "0 given; expected a number from 1 to 1048576"),
        ("max_vteps = 65537", "65537 given"),
    ],
)
def test_keys_of_an_nve_that_cannot_be_are_refused(line, why):
    key = line.partition(" ")[0]
    check_marked(f"{NVE}{line}  # error: nve.{key}: {why}\n{UP}{VM}{BLUE}")


def test_any_sender_whatever_is_warned_about():
    check_marked(f"""
{NVE}
allow_from = ["0.0.0.0/0"]  # warning: nve.allow_from[0]: 0.0.0.0/0 lets any sender whatever
{UP}{VM}{BLUE}""")


def test_each_role_has_an_address_of_its_own():
    check_marked(f"""
[nve]
address = "10.0.0.1"  # error: nve.address: 10.0.0.1 is also device.address; expected an address of its own
[[port]]
name = "nve"
kind = "internal"
peer = "tor"
faces = "core"
[[port]]
name = "tor"
kind = "internal"
peer = "nve"
faces = "nve"
[device]
address = "10.0.0.1"
{VM}{BLUE}""")
    check_marked(f"""
[nve]
address = "10.0.0.2"  # error: nve.address: 10.0.0.2 is also replicator.replicate
[replicator]
address = "10.0.0.1"
replicate = "10.0.0.2"
{UP}{VM}{BLUE}""")


def test_a_network_of_vms_has_a_group_unless_its_frames_go_elsewhere():
    network = '[[network]]{}\nname = "blue"\nvni = 5001\n'
    missing = '  # error: network[0]: group is missing: its VMs at port "vm1" send to it; expected'
    check_marked(NVE + UP + VM + network.format(missing))
    check_marked(NVE + 'send_to = ["10.0.0.2"]\n' + UP + VM + network.format(""))
    check_marked(NVE + UP + VM + BLUE + '[[network]]\nname = "red"\nvni = 5\n')  # of others


def test_what_vms_say_may_go_to_other_groups_of_their_network():
    """N9."""
    text = """
[[network.map]]
inner = "239.5.0.0/16"
group = "239.1.1.2"
"""
    check_marked(NVE + UP + VM + BLUE + text)
    check_marked(NVE + 'send_to = "10.0.0.9"\n' + UP + VM + BLUE + text)


def test_groups_and_the_nve_s_address_are_of_one_ip_version():
    check_marked(f"""
{NVE}{UP}{VM}
[[network]]
name = "blue"
vni = 5001
group = "ff05::1"  # error: network[0].group: ff05::1 is IPv6, but nve.address
""")
    mapped = """
[[network.map]]
inner = "239.5.0.0/16"
group = "239.1.1.2"
[[network.map]]
inner = "ff15::/16"
group = "ff05::2"  # error: network[0].map[1].group: ff05::2 is IPv6, but nve.address
"""
    check_marked(NVE + UP + VM + BLUE + mapped)
    check_marked(NVE + 'send_to = "10.0.0.9"\n' + UP + VM + BLUE + mapped.replace("# error", "#"))


def test_a_network_of_vms_on_nvgre_has_a_vsid():
    check_marked(f"""
{NVE}{UP}{VM}
[[network]]  # error: network[0]: vsid is missing
name = "blue"
vni = 100
encap = "nvgre"
group = "239.1.1.1"
""")


def test_two_networks_of_one_number_do_not_both_have_vms():
    check_end("""
[[network]]
name = "red"
vni = 7
# warning: network[1].vsid: VSID 5001 is also that of network "blue"
# error: network[1].vsid: VSID 5001 is also that of network "blue", and both have VM ports
vsid = 5001
group = "239.1.1.2"
[[port]]
name = "vm2"
faces = "vm"
network = "red"
""")


def test_static_stations_are_each_at_one_place_that_there_is():
    check_end("""
[[port]]
name = "vm2"
faces = "vm"
network = "red"
[[network]]
name = "red"
vni = 5002
group = "239.1.1.1"
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:01"
port = "vm1"
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:01"  # error: nve.mac[1].mac: 02:00:00:00:00:01 of "blue" is already given in line
vtep = "10.0.0.9"
[[nve.mac]]
network = "red"
mac = "02:00:00:00:00:01"
vtep = "10.1.1.2"  # error: nve.mac[2].vtep: 10.1.1.2 is our own address (nve.address)
[[nve.mac]]  # error: nve.mac[3]: port and vtep given; expected exactly one of them
network = "red"
mac = "02:00:00:00:00:02"
port = "vm2"
vtep = "10.0.0.9"
[[nve.mac]]  # error: nve.mac[4]: neither port nor vtep given; expected exactly one of them
network = "reed"  # error: nve.mac[4].network: no [[network]] is called "reed"; did you mean "red"?
mac = "02:00:00:00:00:03"
[[nve.mac]]
network = "red"
mac = "02:00:00:00:00:04"
port = "vm1"  # error: nve.mac[5].port: port "vm1" is one of network "blue"; expected a VM port of "red"
[[nve.mac]]
network = "red"
mac = "02:00:00:00:00:05"
port = "up"  # error: nve.mac[6].port: port "up" is no port of VMs; expected a VM port of "red"
[[nve.mac]]
network = "red"
mac = "02:00:00:00:00:06"
port = "vm3"  # error: nve.mac[7].port: no [[port]] is called "vm3"; did you mean "vm2"?
[[nve.mac]]
network = "red"
mac = "01:00:5e:00:00:01"  # error: nve.mac[8].mac: "01:00:5e:00:00:01" is a group address
vtep = "10.0.0.9"
[[nve.mac]]
network = "red"
mac = "02:00:00:00:00:07"
vtep = "2001:db8::1"  # error: nve.mac[9].vtep: 2001:db8::1 is IPv6, but nve.address is 10.1.1.2
""")


def test_what_a_static_vtep_speaks_has_a_number_in_its_network():
    check_end("""
[[network]]
name = "red"
vni = 100
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:01"
vtep = "10.0.0.9"
encap = "nvgre"
[[nve.mac]]
network = "red"
mac = "02:00:00:00:00:01"
vtep = "10.0.0.9"
encap = "nvgre"  # error: nve.mac[1].encap: "nvgre" given, but network "red" can have no VSID
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:02"
port = "vm1"
encap = "vxlan"  # error: nve.mac[2].encap: given; expected only with vtep
""")


def test_all_static_stations_have_room():
    stations = "".join(
        f'[[nve.mac]]\nnetwork = "blue"\nmac = "02:00:00:00:00:0{n}"\nvtep = "10.0.0.9"\n' for n in (1, 2)
    )
    few = "max_macs = 1  # error: nve.max_macs: 1 given, but there are 2 static stations\n"
    check_marked(NVE + few + UP + VM + BLUE + stations)


INTERNAL = """
[[port]]
name = "nve"
kind = "internal"
peer = "tor"
faces = "core"
[[port]]
name = "tor"
kind = "internal"
peer = "nve"
faces = "nve"
"""


def test_an_nve_and_a_device_in_one_box_meet_at_internal_ports():
    """CONFORMANCE N11."""
    device = '[device]\naddress = "10.0.0.1"\n'
    check_marked(NVE + BLUE + VM + INTERNAL + device)
    warned = '[nve]  # warning: nve: [device] is on the same box, but the NVE joins by port "up"\n'
    check_marked(warned + 'address = "10.1.1.2"\n' + BLUE + VM + UP + device)


def test_nested_tunnels_leave_by_no_internal_port_and_need_no_room_there():
    """CONFORMANCE N11."""
    tunnels = """
[[port]]
name = "core"
faces = "core"
mtu = 1581  # warning: port[3].mtu: 1581 is too small for nested tunnels: they add 32 bytes
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.1"
addresses = ["10.0.0.2"]
"""
    check_marked(NVE + BLUE + VM + INTERNAL.replace("faces", "mtu = 1550\nfaces") + tunnels)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            'peer = "tor"\n',
            'peer = "tro"  # error: port[1].peer: no [[port]] is called "tro"; did you mean "tor"?\n',
        ),
        (
            'peer = "tor"\n',
            'peer = "nve"  # error: port[1].peer: port "nve" is not the other end of this one\n',
        ),
        (
            'peer = "tor"\n',
            'peer = "vm1"  # error: port[1].peer: port "vm1" is not the other end of this one\n',
        ),
    ],
)
def test_internal_ports_name_each_other(old, new):
    other = (
        'peer = "nve"  # error: port[2].peer: port "nve" is not the other end of this one; expected another'
    )
    text = INTERNAL.replace(old, new).replace('peer = "nve"\nfaces = "nve"', f'{other}\nfaces = "nve"')
    check_marked(NVE + BLUE + VM + text)


def test_an_internal_port_has_a_peer_and_no_other_port_has_one():
    text = INTERNAL.replace(
        "[[port]]\n", "[[port]]  # error: port[1]: peer is missing; expected the other\n", 1
    )
    check_marked(NVE + BLUE + VM + text.replace('peer = "tor"\n', "").replace(
        'peer = "nve"', 'peer = "nve"  # error: port[2].peer: port "nve" is not the other end of this one'
    ))  # fmt: skip
    check_end('peer = "up"  # error: port[1].peer: given; expected only where kind = "internal"\n')


def test_of_internal_ports_one_faces_the_device_s_nves_and_one_the_core():
    text = INTERNAL.replace(
        'faces = "core"',
        'faces = "nve"  # error: port[2].faces: both ends given as "nve" and "nve"; expected one',
    )
    check_marked(NVE + BLUE + VM + UP + text)


@pytest.mark.parametrize(
    ("address", "encap", "vm_mtu", "needs"),
    [
        ("10.1.1.2", "vxlan", 0, 1550),
        ("10.1.1.2", "nvgre", 0, 1542),
        ("2001:db8::2", "vxlan", 0, 1570),
        ("2001:db8::2", "nvgre", 9000, 9062),
    ],
)
def test_an_uplink_without_room_for_full_size_frames_of_vms_is_warned_about(address, encap, vm_mtu, needs):
    group = "ff05::1" if ":" in address else "239.1.1.1"
    text = f"""
[nve]
address = "{address}"
[[network]]
name = "blue"
vni = 5001
encap = "{encap}"
group = "{group}"
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
mtu = {vm_mtu}
[[port]]
name = "up"
faces = "core"
mtu = """
    check_marked(f"{text}{needs}\n")
    what = f"packets of up to {vm_mtu or 1500} from its VMs"
    check_marked(
        f"{text}{needs - 1}  # warning: {encap.upper()} adds {needs - (vm_mtu or 1500)} bytes to {what}\n"
    )


def test_what_is_damaged_is_told_once():
    check_marked(f"""
[nve]
address = "x"  # error: nve.address: "x" is not an IP address
send_to = "2001:db8::1"
[device]
address = "y"  # error: device.address: "y" is not an IP address
[[port]]
name = "p1"
faces = "z"  # error: port[0].faces
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:02"
vtep = 5  # error: nve.mac[0].vtep: 5 given
{BLUE}""")
