"""Single values: each that cannot be taken is told with its line, its key and what would be legal."""

import pytest

from ctrl.config import parse
from tests.unit.marked import check_marked
from tests.unit.test_config import PORTS


@pytest.mark.parametrize(
    "broken", ["0", "257", '"1"', "1.0", "true", "nan", "[1]", "{a = 1}", "1979-05-27", "9" * 60]
)
def test_a_number_is_a_whole_number_in_its_range(broken):
    check_marked(f"""
[device]
address = "10.0.0.1"
[dataplane]
# error: given; expected a number from 1 to 256
batch = {broken}
{PORTS}""")


def test_every_wrong_value_is_told_at_once_with_its_line_and_key():
    check_marked("""
node = "tor 1"  # error: node: "tor 1" given; expected a name without spaces and slashes
nodes = 1  # error: nodes: unknown key; the top of the file takes node, control, dataplane, port, network,
workers = 2  # error: workers: unknown key
# error: did you mean "device"?
[devise]
address = "10.0.0.1"
[dataplane]
# error: dataplane.cpus[1]: -1 given; expected a list of CPU numbers, one a worker
# error: dataplane.cpus[2]: true given
cpus = [0, -1, true]
trains = 1  # error: dataplane.trains: 1 given; expected true or false
vxlan_ports = [
    4789,
    70000,  # error: dataplane.vxlan_ports[1]: 70000 given; expected a list of UDP ports, one at least
]
# error: dataplane.vxlan-ports: unknown key; [dataplane] takes workers, cpus, batch, trains, clones,
"vxlan-ports" = 1
[[port]]  # error: port[0].faces: missing; expected "nve", "core", "vm" or ["nve", "core"]
name = "a/b"  # error: port[0].name: "a/b" given; expected a name without spaces and slashes
# error: port[0].kind: "pakcet" given; expected "packet", "xdp", "tap", "internal", "pcap" or "memory"; did
kind = "pakcet"
mtu = 575  # error: port[0].mtu: 575 given; expected 0 or a number from 576 to 65535
[device]
address = "10.0.0.1"
manager = "10.0.0.9:1"  # error: device.manager: "10.0.0.9:1" given; expected a list of "host:port"
peer = 5  # error: device.peer: 5 given; expected [[device.peer]] tables
[device.member]  # error: device.member: a table where a list of tables is needed, which has double brackets
group = "239.1.1.1"
[replicator]  # error: replicator.address: missing; expected the unicast address of a host
""")


def test_a_word_that_stands_in_no_table_gets_no_suggestion():
    (finding,) = (f for f in parse("[device]\naddress = '10.0.0.1'\nqqqq = 1\n").findings if f.line == 3)
    assert finding.message.endswith("strict_members, peer or member")


def test_a_word_of_another_table_is_led_there():
    check_marked('workers = 2  # error: did you mean "workers" of [dataplane]?\n[manager]')


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("address", "5", "5 given; expected the unicast address of a host"),
        ("address", '"10.0.0"', '"10.0.0" is not an IP address'),
        ("address", '"10.0.0.1/24"', 'expected the unicast address of a host; did you mean "10.0.0.1"?'),
        ("address", '"::ffff:10.0.0.1"', "is an IPv4 address in IPv6 clothes; expected the unicast address"),
        ("address", '"239.1.1.1"', "is a multicast group, not the address of one host"),
        ("address", '"0.0.0.0"', "is not the address of a host"),
        ("address", '"255.255.255.255"', "is not the address of a host"),
        ("address", '"::"', "is not an address that packets can travel to"),
        ("address", '"127.0.0.1"', "is not an address that packets can travel to"),
        ("address", '"fe80::1%eth0"', "has a zone"),
        ("tunnel", '"nestd"', '"nestd" given; expected "nested" or "rewrite"; did you mean "nested"?'),
        ("source", '"mine"', '"mine" given; expected "own" or "keep"'),
        ("strict_members", '"yes"', '"yes" given; expected true or false'),
        ("allow_from", '["10.0.0.1/24"]', "has bits set behind its prefix length; expected a list"),
        ("allow_from", '["224.0.0.0/4"]', "is multicast, and no packet comes from a group"),
        ("allow_from", '["x"]', '"x" is not a prefix; expected a list of prefixes or addresses'),
        ("allow_from", '["x/y"]', "is not a prefix"),
        ("allow_from", "[5]", "allow_from[0]: 5 given"),
        ("allow_from", '["fe80::%a/64"]', "has a zone"),
    ],
)  # fmt: skip
def test_a_value_of_the_device_that_cannot_be_taken_is_explained(key, value, why):
    address = "" if key == "address" else 'address = "10.0.0.1"'
    check_marked(f"""
{PORTS}
[device]
{address}
# error: {why}
{key} = {value}
""")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (
            "mac",
            '"01:00:5e:00:00:01"',
            "is a group address: the lowest bit of its first byte is set; expected a MAC",
        ),
        (
            "mac",
            '"00:00:00:00:00:00"',
            "is no address of a station; expected a MAC address like 02:00:00:00:00:01",
        ),
        ("mac", '"02:00:00:00:00"', '"02:00:00:00:00" given; expected a MAC'),
        ("next_hop_mac", "2", "next_hop_mac: 2 given; expected a MAC"),
        (
            "address",
            '"10.0.0.1"',
            'has no prefix length; expected an address with its prefix length like "10.0.0.1/24"',
        ),
        ("address", '"10.0.0.1/33"', "is not an address with a prefix length"),
        ("address", '["fe80::1%a/64"]', "port[0].address[0]: "),
        ("address", '["239.0.0.1/8"]', "is a multicast group"),
        ("address", "[1]", "port[0].address[0]: 1 given"),
        ("mtu", "true", "true given; expected 0 or a number from 576 to 65535"),
        ("mtu", "65536", "65536 given"),
        ("mtu", '"x"', '"x" given; expected 0 or a number from 576 to 65535'),
        ("encap", '"VXLAN"', '"VXLAN" given; expected "vxlan" or "nvgre"; did you mean "vxlan"?'),
    ],
)
def test_a_value_of_a_port_that_cannot_be_taken_is_explained(key, value, why):
    check_marked(f"""
[manager]
[[port]]
name = "p1"
faces = "core"
# error: {why}
{key} = {value}
""")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('"both"', '"both" given; expected "nve", "core", "vm" or ["nve", "core"]'),
        ('["nve", "nve"]', '["nve", "nve"] given'),
        ("[]", "[] given"),
        ("{ a = 1 }", "a table given"),
        ("[[1]]", "a list of tables or lists given"),
        ('["vm", "core"]', '["vm", "core"] mixes "vm" with another: a VM\'s own frames carry no tunnel'),
    ],
)
def test_a_port_faces_nves_the_core_both_or_vms_alone(value, why):
    check_marked(f"""
[manager]
[[port]]
name = "p1"
# error: port[0].faces: {why}
faces = {value}
""")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('"10.0.0.1"', '"10.0.0.1" is not a multicast group; expected a multicast group'),
        ('"224.0.0.5"', "is link-local (224.0.0.0/24): such groups belong to one link"),
        ('"ff02::5"', "is link-local (ff02::/16): such groups"),
        ('"ff01::5"', "is interface-local (ff01::/16): such groups"),
        ('"239.1.1.1/32"', "is a prefix; expected a multicast group above the link-local range; did you"),
        ("239", "239 given; expected a multicast group above the link-local range"),
    ],
)  # fmt: skip
def test_d17_a_group_is_multicast_and_not_link_local_wherever_one_is_given(value, why):
    check_marked(f"""
{PORTS}
[[network]]
name = "blue"
vni = 100
group = {value}  # error: {why}
[[network.map]]
inner = "239.0.0.0/8"
group = {value}  # error: {why}
[device]
address = "10.0.0.1"
[[device.peer]]
group = {value}  # error: {why}
addresses = ["10.0.0.2"]
[[device.member]]
group = {value}  # error: {why}
port = "p1"
[replicator]
address = "10.0.0.9"
[[replicator.list]]
group = {value}  # error: {why}
addresses = ["10.0.0.2"]
""")


def test_numbers_of_networks_and_points_are_in_range():
    check_marked(f"""
{PORTS}
[[network]]
name = "blue"
vni = 0  # error: network[0].vni: 0 given; expected a number from 1 to 16777215
[[network]]
name = "red"
vni = 16777216  # error: 16777216 given
[[network]]
name = "green"
vni = 16777215
vsid = 4095  # error: network[2].vsid: 4095 given; expected a number from 4096 to 16777214 (RFC 7637 reserves
map = [{{ inner = "10.0.0.0/8", group = "239.1.1.1" }}]  # error: is not within 224.0.0.0/4 or ff00::/8: only
[[network]]
name = "grey"
vni = 7
vsid = 0xffffff  # error: 16777215 given
[[network.map]]
inner = 5  # error: network[3].map[0].inner: 5 given; expected a multicast prefix like 239.0.0.0/8
group = "239.1.1.1"
[replicator]
address = "10.0.0.9"
vnis = [
    "199-100",  # error: runs backwards; expected a list of VNIs and ranges like ["100-199", 300]; did you
    0,  # error: replicator.vnis[1]: 0 given
    "1-16777216",  # error: given
    true,  # error: true given
    "a",  # error: "a" given
]
[[replicator.list]]
vni = 100
addresses = "10.0.0.2"  # error: "10.0.0.2" given; expected a list of unicast addresses or tables like {{
[[replicator.list]]
vni = 101
# error: replicator.list[1].addresses[0]: 7 given; expected the unicast address of a host
# error: replicator.list[1].addresses[1].address: missing
# error: replicator.list[1].addresses[2].encp: unknown key; an item of addresses takes address, encap, vni or
addresses = [7, {{ vni = 5 }}, {{ address = "10.0.0.2", encp = "vxlan" }}]
""")


def test_a_list_that_needs_one_item_is_not_empty_and_a_table_is_a_table():
    check_marked("""
replicator = 5  # error: replicator: 5 given; expected a [replicator] table
port = [1]  # error: port[0]: 1 given; expected [[port]] tables
network = 7  # error: network: 7 given; expected [[network]] tables
[dataplane]
vxlan_ports = []  # error: dataplane.vxlan_ports: [] given; expected a list of UDP ports, one at least
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.1"
addresses = []  # error: device.peer[0].addresses: [] given; expected a list of unicast addresses
""")


def test_a_box_is_asked_by_a_socket_of_its_name_unless_it_says_otherwise():
    tor1 = check_marked('node = "tor1"\nmanager = {}\n').config
    assert tor1
    assert tor1.control_socket == "/run/fastpath/tor1.sock"
    assert str(tor1.control.http) == "127.0.0.1:9473"
    for path in ("/tmp/a.sock", "", "/" + "a" * 95):
        other = check_marked(f'manager = {{}}\n[control]\nsocket = "{path}"\n').config
        assert other
        assert other.control_socket == path


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ('"tor1.sock"', '"tor1.sock" does not begin with /'),
        ('"/run/"', '"/run/" is no name of a file'),
        ('"/run/a\\nb"', "is no name of a file"),
        ('"/' + "a" * 96 + '"', "is too long for a socket"),
        ("true", "true given; expected the path of a socket"),
    ],
)
def test_a_socket_that_cannot_be_is_refused(given, why):
    check_marked(f"manager = {{}}\n[control]\n# error: {why}\nsocket = {given}\n")


@pytest.mark.parametrize(
    ("given", "read"),
    [('"127.0.0.1:1"', "127.0.0.1:1"), ('"[::1]:65535"', "[::1]:65535"), ('""', "None")],
)
def test_http_is_an_address_and_a_port_or_off(given, read):
    config = check_marked(f"manager = {{}}\n[control]\nhttp = {given}\n").config
    assert config
    assert str(config.control.http) == read


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("9473", "9473 given; expected an address and a port like"),
        ('"127.0.0.1"', '"127.0.0.1" given; expected an address and a port like'),
        ('"127.0.0.1:0"', '"127.0.0.1:0" given'),
        ('"127.0.0.1:65536"', '"127.0.0.1:65536" given'),
        ('"224.0.0.1:80"', '"224.0.0.1:80" given'),
        ('"localhost:80"', '"localhost:80" has no IP address before its port'),
        ('"[127.0.0.1]:80"', '"[127.0.0.1]:80" has brackets, which are for IPv6'),
        ('"::1:80"', 'or "" for none; did you mean "[::1]:80"?'),
    ],
)
def test_http_that_cannot_be_is_refused(given, why):
    check_marked(f"manager = {{}}\n[control]\n# error: {why}\nhttp = {given}\n")


def test_a_receive_ring_has_its_bounds():
    check_marked("""
manager = {}
[dataplane]
ring_frames = 255  # error: dataplane.ring_frames: 255 given; expected a number from 256 to 262144
""")
    check_marked("""
manager = {}
[dataplane]
ring_frames = 262145  # error: dataplane.ring_frames: 262145 given; expected a number from 256 to 262144
""")
    config = check_marked("manager = {}\n[dataplane]\nring_frames = 262144\n").config
    assert config
    assert config.dataplane.ring_frames == 262144
