"""What takes two keys to judge of who reads what tenants say, and of NVEs whose receivers managers tell."""

from tests.unit.marked import check_marked
from tests.unit.test_config_rules_nve import BLUE, NVE, UP, VM, WHOLE, check_end


def test_snooping_takes_vms_and_what_becomes_of_unregistered_groups_takes_snooping():
    """CONFORMANCE N13."""
    check_marked(WHOLE.replace("vni = 5001", 'vni = 5001\nsnoop = true\nunregistered = "drop"'))
    check_end("""
[[network]]
name = "red"
vni = 5002
snoop = true  # warning: network[1].snoop: has no effect, as no port with VMs is in network "red"
[[network]]
name = "green"
vni = 5003
unregistered = "drop"  # error: network[2].unregistered: given; expected only where snoop = true
""")


def test_a_device_and_a_point_listen_to_vms_of_others():
    """Framework 3.2. Who gets no frames of the network hears nobody."""
    device, point = '[device]\naddress = "10.0.0.1"\n', '[replicator]\naddress = "10.0.0.1"\n'
    faces, receivers = '[[port]]\nname = "p1"\nfaces = "nve"\n', 'addresses = ["10.0.0.2"]\n'
    listens = BLUE + "snoop = true"
    check_marked(f"{UP}{faces}{listens}\n{device}")
    for by in ("vni = 5001", "vsid = 5001", 'group = "239.1.1.1"'):
        check_marked(f"{UP}{listens}\n{point}[[replicator.list]]\n{by}\n{receivers}")
    mark = '  # warning: network[0].snoop: has no effect, as no port with VMs is in network "blue", no port'
    check_marked(f"{UP}{listens}{mark}\n{point}[[replicator.list]]\nvni = 7\n{receivers}")
    check_marked(f"{UP}{faces}{listens}{mark}\n{device}".replace('group = "239.1.1.1"\n', ""))


MANAGED = NVE + 'manager = ["127.0.0.1:9470"]\n'


def test_an_nve_with_managers_sends_where_they_say_and_nowhere_else():
    config = check_marked(MANAGED + BLUE + UP + VM).config
    assert config
    assert config.nve
    assert (config.nve.send_to, config.nve.max_peers_per_group, config.nve.state) == ((), 1024, None)
    for where in ('"group"', '"10.0.0.9"'):
        check_marked(f"""
{MANAGED}
send_to = {where}  # error: nve.send_to: given beside manager, who tells where frames go; expected one of the
{BLUE}{UP}{VM}""")


def test_managers_know_networks_by_their_groups():
    check_marked(f"""
{MANAGED}
[[network]]  # error: network[0]: group is missing: by it managers know the network of the VMs at port "vm1"
name = "blue"
vni = 5001
{UP}{VM}""")


def test_a_manager_of_an_nve_that_is_not_of_this_box_takes_certificates():
    check_marked(f"""
{NVE}
manager = ["10.0.0.100:9470"]  # error: nve.manager[0]: 10.0.0.100:9470 is not of this box, and nobody would
{BLUE}{UP}{VM}""")


def test_an_nve_with_managers_beside_a_device_is_warned_about():
    """Neither gets to the other's tunnel end on its own box."""
    check_marked(f"""
{NVE}
manager = ["127.0.0.1:9470"]  # warning: nve.manager: [device] is on the same box: neither reaches the other
{BLUE}{UP}{VM}
[device]
address = "10.0.0.1"
""")


def test_who_hands_igmp_on_to_service_nodes_does_not_read_it():
    """CONFORMANCE N12."""
    services = '["10.0.0.9", "10.0.0.8"]'
    check_marked(WHOLE.replace("vni = 5001", f"vni = 5001\nigmp_to = {services}"))
    check_marked(f"""
{NVE}{BLUE}
snoop = true
igmp_to = {services}  # error: network[0].igmp_to: given beside snoop = true
{UP}{VM}""")
    check_end(f"""
[[network]]
name = "red"
vni = 5002
igmp_to = {services}  # warning: network[1].igmp_to: has no effect, as no port with VMs is in network "red"
""")
    check_marked(f"""
{UP}{BLUE}
igmp_to = {services}  # error: network[0].igmp_to: given on a box with a [replicator]
[replicator]
address = "10.0.0.1"
""")


def test_service_nodes_are_other_boxes_each_named_once():
    check_marked(f"""
{NVE}{BLUE}
igmp_to = [
    "10.1.1.2",  # error: network[0].igmp_to[0]: 10.1.1.2 is our own address (nve.address)
    "fd00::9",  # error: network[0].igmp_to[1]: fd00::9 is IPv6, but nve.address is 10.1.1.2
    "10.0.0.9",
    "10.0.0.9",  # error: network[0].igmp_to[3]: 10.0.0.9 is given twice
]
{UP}{VM}""")
