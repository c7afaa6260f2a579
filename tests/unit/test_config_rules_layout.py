"""What takes two keys of [control], [dataplane], [[port]] and [[network]] to judge."""

from ctrl.config import parse
from tests.unit.marked import check_marked


def test_metrics_for_the_whole_network_are_warned_of_and_those_for_this_box_are_not():
    check_marked("""
[manager]
[control]
http = "0.0.0.0:9473"  # warning: control.http: 0.0.0.0:9473 is not of this box alone: whoever reaches it can
""")
    check_marked("""
[manager]
[control]
http = "[2001:db8::1]:80"  # warning: control.http: [2001:db8::1]:80 is not of this box alone
""")
    for quiet in ("127.0.0.2:80", "[::1]:80", ""):
        check_marked(f'[manager]\n[control]\nhttp = "{quiet}"\n')


def test_cpus_are_one_a_worker_and_differ():
    check_marked("""
[manager]
[dataplane]
workers = 3
# error: dataplane.cpus: 2 CPUs given for 3 workers; expected one for each worker, or none
cpus = [
    1,
    1,  # error: dataplane.cpus[1]: CPU 1 is given twice; expected a CPU of its own for each worker
]
""")
    check_marked("[manager]\n[dataplane]\nworkers = 2\ncpus = [0, 1]\n")


def test_a_wrong_number_of_workers_does_not_make_the_cpus_wrong():
    check_marked("[manager]\n[dataplane]\nworkers = 0  # error: dataplane.workers\ncpus = [0, 1]\n")


def test_vxlan_ports_differ_and_leave_nested_tunnels_theirs():
    check_marked("""
[manager]
[dataplane]
# error: dataplane.vxlan_ports[1]: 4754 given; that is the port of nested tunnels (GRE-in-UDP, RFC 8086)
# error: dataplane.vxlan_ports[2]: port 4789 is given twice
vxlan_ports = [4789, 4754, 4789]
""")


def test_ports_have_names_and_interfaces_of_their_own():
    check_marked("""
[manager]
[[port]]
name = "p1"
faces = "core"
[[port]]
name = "p1"  # error: port[1].name: port "p1" is already defined in line 4
faces = "core"
[[port]]
name = "p2"
device = "p1"  # error: port[2].device: interface "p1" already belongs to the port in line 3
faces = "core"
[[port]]
name = "p3"
kind = "pcap"
device = "p1"
faces = "core"
[[port]]  # error: port[4].device: "a-rather-long-name" is no name of a Linux interface, which the name
name = "a-rather-long-name"
faces = "core"
[[port]]
name = "p5"
device = "a:b"  # error: port[5].device: "a:b" is no name of a Linux interface; expected 1 to 15 characters
faces = "core"
""")


def test_a_port_of_vms_names_a_network_and_others_do_not():
    check_marked("""
[nve]
address = "10.0.0.9"
send_to = "10.0.0.10"
[[port]]
name = "up"
faces = "core"
[[network]]
name = "blue"
vni = 100
[[port]]  # error: port[1]: network is missing; expected the [[network]] of the VMs, as faces = "vm"
name = "vm0"
faces = "vm"
[[port]]
name = "vm1"
faces = "vm"
network = "bleu"  # error: port[2].network: no [[network]] is called "bleu"; did you mean "blue"?
[[port]]
name = "vm2"
faces = "vm"
network = "xxx"  # error: port[3].network: no [[network]] is called "xxx"; expected one of blue
[[port]]
name = "p3"
faces = "nve"
network = "blue"  # error: port[4].network: given; expected only where faces = "vm"
""")
    check_marked("""
[nve]
address = "10.0.0.9"
send_to = "10.0.0.10"
[[port]]
name = "up"
faces = "core"
[[port]]
name = "vm0"
faces = "vm"
network = "blue"  # error: port[1].network: no [[network]] is called "blue"
""")


def test_a_damaged_network_is_not_called_unknown_nor_a_damaged_key_missing():
    check_marked("""
[nve]
address = 5  # error: nve.address
[[network]]
name = "blue"
vni = 0  # error: network[0].vni
[[port]]
name = "vm0"
faces = "vm"
network = "blue"
[[port]]
name = "vm1"
faces = "vm"
network = 5  # error: port[1].network
[[network]]
name = "red"
vni = 100
vsid = 1  # error: network[1].vsid
encap = "nvgre"
""")


def test_prefixes_of_ports_that_overlap_are_warned_about():
    check_marked("""
[manager]
[[port]]
name = "p1"
faces = "core"
address = ["10.0.0.1/24", "fe80::1/64"]
[[port]]
name = "p2"
faces = "core"
# warning: port[1].address: 10.0.0.128/25 overlaps 10.0.0.0/24 of port "p1"; a peer within both is reached by
address = ["10.0.0.129/25", "fe80::2/64", "2001:db8::1/64", "10.0.1.1/24"]
""")


def test_networks_have_names_of_their_own_and_map_a_prefix_once():
    check_marked("""
[manager]
[[network]]
name = "blue"
vni = 100
map = [
    { inner = "239.0.0.0/8", group = "239.1.1.1" },
    { inner = "239.0.0.0/8", group = "239.1.1.2" },  # error: network[0].map[1].inner: 239.0.0.0/8 is already
]
[[network]]
name = "blue"  # error: network[1].name: network "blue" is already defined in line 4
vni = 101
""")


def test_w2_an_nvgre_network_has_a_vsid_that_nvgre_allows():
    check_marked("""
[manager]
[[network]]  # error: network[0]: vsid is missing; vni 4095 cannot be its VSID too, as NVGRE reserves 0-4095
name = "blue"
vni = 4095
encap = "nvgre"
[[network]]
name = "red"
vni = 4096
encap = "nvgre"
[[network]]
name = "green"
vni = 100
vsid = 5000
encap = "nvgre"
[[network]]
name = "grey"
vni = 7
""")


def test_a_network_without_vsid_beside_nvgre_nves_is_warned_about():
    check_marked("""
[manager]
[[port]]
name = "p1"
faces = "nve"
encap = "nvgre"
[[network]]  # warning: give a vsid, or copies to port "p1", which speaks NVGRE, are dropped
name = "blue"
vni = 16777215
""")


NETWORKS = """
[[port]]
name = "core"
faces = "core"
[[network]]
name = "blue"
vni = 100
group = "239.1.1.1"
[[network]]
name = "red"
vni = 100  # {vni}
group = "239.1.1.2"
[[network]]
name = "green"
vni = 5000
group = "239.1.1.3"
[[network]]
name = "grey"
vni = 7
vsid = 5000  # {vsid}
group = "239.1.1.4"
[[network]]
name = "blue-again"
vni = 100  # warning: network[4].vni: VNI 100 is also that of network "blue", which has the same groups
group = "239.1.1.1"
[device]
address = "10.0.0.1"
tunnel = "{tunnel}"  # {tunnel_mark}
"""


def test_d14_a_number_of_two_groups_is_an_error_for_rewriting_and_a_warning_for_nesting():
    check_marked(
        NETWORKS.format(
            tunnel="rewrite",
            tunnel_mark="warning: device.tunnel: rewritten copies carry device.address",
            vni='error: network[1].vni: VNI 100 is also that of network "blue", which has another group',
            vsid='error: network[3].vsid: VSID 5000 is also that of network "green", which has another group',
        )
    )
    check_marked(
        NETWORKS.format(
            tunnel="nested",
            tunnel_mark="",
            vni="warning: nested tunnels carry the group with them, but rewritten packets of this number",
            vsid="warning: network[3].vsid: VSID 5000",
        )
    )


def test_more_ports_than_the_data_path_has_room_for_are_an_error():
    ports = "".join(f'[[port]]\nname = "p{i}"\nkind = "memory"\nfaces = "nve"\n' for i in range(257))
    many = ", ".join(str(port) for port in range(5000, 5017))
    said = [str(finding) for finding in parse(f"[dataplane]\nvxlan_ports = [{many}]\n{ports}").findings]
    assert any(
        ":2: error: dataplane.vxlan_ports: 17 ports given; the data path has room for 16" in one
        for one in said
    )
    assert any(": error: port[256]: 257 ports given; the data path has room for 256" in one for one in said)
