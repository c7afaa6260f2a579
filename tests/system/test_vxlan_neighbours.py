"""Unmodified Linux VXLAN devices on all sides: what one VM floods, each other VM of the network gets once."""

import socket

import pytest

from ctrl.lab.namespaces import Namespace, connect, missing
from tests import frames as f
from tests.system.lab import Fastpath, Lab, Vm, expect_once, numbered, plug

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
BOTH = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
REST = pytest.mark.parametrize(
    "six", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ipv4", "ipv6"]
)
"""Where IPv6 adds little, it waits for the slow run: together these tests take long."""
MANY = list(range(1, 201))


class Names:
    """Addresses of one IP version."""

    def __init__(self, six: bool) -> None:
        self.six = six
        self.group, self.other_group = ("ff05::100", "ff05::200") if six else ("239.1.1.100", "239.1.1.200")

    def tor(self, tor: int) -> str:
        return f"fd00:9::{tor}" if self.six else f"10.9.0.{tor}"

    def link(self, number: int) -> tuple[str, str]:
        """The addresses of both ends of the link of NVE `number`."""
        if self.six:
            return f"fd00:1:{number}::1/64", f"fd00:1:{number}::2/64"
        return f"10.1.{number}.1/24", f"10.1.{number}.2/24"

    def nve(self, number: int) -> str:
        return self.link(number)[1].split("/")[0]

    def subnet(self, number: int) -> str:
        return self.link(number)[0].replace("::1/64", "::/64").replace(".1/24", ".0/24")


@pytest.fixture
def lab():
    with Lab("vxlan") as made:
        yield made


def tor(lab, names, number, *nves):
    """A ToR with its NVEs behind ports p1, p2, ..., and its tunnel address on lo."""
    box = lab.box(f"tor{number}", six=names.six, forwards=True)
    box.address("lo", names.tor(number) + ("/128" if names.six else "/32"))
    far = {}
    for place in nves:
        far[place] = lab.box(f"n{place}", six=names.six)
        plug(box, f"p{place}", far[place], names.link(place))
    return box, far


def to_group(lab, box, names, number, vni=100, group=None, name="vx"):
    """A VXLAN device in group mode, with a VM on it."""
    box.vxlan(
        name, vni, local=names.nve(number), under="up", group=group or names.group, vxlan_learning=1,
        vxlan_ttl=4,
    )  # fmt: skip
    return Vm(lab, box, name, number)


def to_remote(lab, box, names, number, remote, vni=100, name="vx"):
    """A VXLAN device that floods to one address."""
    box.vxlan(name, vni, local=names.nve(number), group=remote, vxlan_learning=1)
    return Vm(lab, box, name, number)


def ports(*numbers):
    return "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in numbers)


def members(group, *numbers, nves=()):
    out = "".join(f'[[device.member]]\ngroup = "{group}"\nport = "p{n}"\n' for n in numbers)
    return out + "".join(
        f'[[device.member]]\ngroup = "{group}"\nport = "p{n}"\nnve = "{nve}"\n' for n, nve in nves
    )


def network(names, vni=100, group=None):
    return f'[[network]]\nname = "n{vni}"\nvni = {vni}\ngroup = "{group or names.group}"\n'


@BOTH
def test_what_one_nve_sends_to_the_group_every_other_one_gets_once_and_no_other_vni(lab, six):
    names = Names(six)
    box, far = tor(lab, names, 1, 1, 2, 3)
    vms = {f"n{n}": to_group(lab, far[n], names, n) for n in far}
    vms["other vni"] = to_group(lab, far[2], names, 2, vni=300, name="vx300")
    vms["other group"] = to_group(lab, far[3], names, 3, vni=200, group=names.other_group, name="vx200")
    config = ports(1, 2, 3) + network(names) + network(names, 300) + network(names, 200, names.other_group)
    config += f'[device]\naddress = "{names.tor(1)}"\n'
    config += members(names.group, 1, 2, 3) + members(names.other_group, 2, 3)
    fastpath = Fastpath(lab, box, config)
    for sender in ("n1", "n2", "n3"):
        vms[sender].send(*MANY)
        expect_once(vms, MANY, but=(sender, "other vni", "other group"))
    vms["other vni"].send(*MANY)
    expect_once(vms, [], but=())
    now = fastpath.settled()
    assert now["copies_out"] == 4 * 2 * len(MANY)
    assert fastpath.lost() == {}


@REST
def test_nves_that_never_join_get_their_copy_by_unicast_and_send_to_the_device(lab, six):
    names = Names(six)
    box, far = tor(lab, names, 1, 1, 2, 3)
    vms = {n: to_remote(lab, far[n], names, n, names.tor(1)) for n in (1, 2)}
    vms[3] = to_group(lab, far[3], names, 3)
    config = ports(1, 2, 3) + network(names) + f'[device]\naddress = "{names.tor(1)}"\n'
    config += members(names.group, 3, nves=[(n, names.nve(n)) for n in (1, 2)])
    Fastpath(lab, box, config)
    for sender in (1, 2, 3):
        vms[sender].send(*MANY)
        expect_once(vms, MANY, but=(sender,))


@pytest.mark.parametrize(
    ("six", "tunnel"),
    [
        pytest.param(False, "nested", id="nested-ipv4"),
        pytest.param(True, "nested", id="nested-ipv6"),
        pytest.param(False, "rewrite", id="rewrite-ipv4"),
        pytest.param(True, "rewrite", id="rewrite-ipv6", marks=pytest.mark.slow),
    ],
)
def test_two_devices_and_four_nves_all_the_way_and_vms_speak_tcp_over_them(lab, six, tunnel):
    names = Names(six)
    tors, far = fabric(lab, names)
    vms = {n: to_group(lab, far[n], names, n) for n in far}
    running = [two_tors_config(lab, names, tors, number, tunnel) for number in (1, 2)]
    running = [fastpath.answers() for fastpath in running]
    for sender in far:
        vms[sender].send(*MANY)
        expect_once(vms, MANY, but=(sender,))
    for fastpath in running:
        assert fastpath.lost() == {}
        (row,) = fastpath.show("tunnels")
        assert (row["state"], row["copies"], row["dropped"]) == ("up", 2 * len(MANY), 0)
    for n, box in far.items():  # ARP is flooded by us, what follows goes by the kernel's routes
        box.set_link("vx", mtu=1400)
        box.address("vx", f"192.168.7.{n}/24")
    for client, server in ((1, 2), (4, 1)):
        assert speak_tcp(far[client], far[server], f"192.168.7.{server}", 200_000) == 200_000


@REST
def test_a_linux_vtep_is_the_peer_of_a_rewriting_device(lab, six):
    names = Names(six)
    box, far = tor(lab, names, 1, 1, 2, 3)
    vms = {n: to_group(lab, far[n], names, n) for n in (1, 2)}
    vms[3] = to_remote(lab, far[3], names, 3, names.tor(1))
    vms[4] = to_remote(lab, far[3], names, 3, names.tor(1), vni=300, name="vx300")
    config = ports(1, 2) + '[[port]]\nname = "p3"\nfaces = "core"\n' + network(names)
    config += f'[device]\naddress = "{names.tor(1)}"\ntunnel = "rewrite"\nsource = "keep"\n'
    config += members(names.group, 1, 2)
    config += f'[[device.peer]]\ngroup = "{names.group}"\naddresses = ["{names.nve(3)}"]\n'
    fastpath = Fastpath(lab, box, config)
    for sender in (1, 2, 3):
        vms[sender].send(*MANY)
        expect_once(vms, MANY, but=(sender, 4))
    vms[4].send(*MANY)
    expect_once(vms, [])
    assert fastpath.lost() == {"unknown_vni": len(MANY)}


def fabric(lab, names):
    """Two ToRs joined by a core link, with NVEs 1 and 2, 3 and 4; each routes to everyone."""
    boxes: dict[int, Namespace] = {}
    far: dict[int, Namespace] = {}
    for number, nves in ((1, (1, 2)), (2, (3, 4))):
        boxes[number], some = tor(lab, names, number, *nves)
        far |= some
    connect(boxes[1], "core", boxes[2], "core", mtu=1800)
    prefix = "fd00:5::{}" if names.six else "10.5.0.{}"
    for number, box in boxes.items():
        if names.six:
            box.sysctl("net/ipv6/conf/core/disable_ipv6", 0)
        box.address("core", prefix.format(number) + ("/64" if names.six else "/24"))
    for number, other, nves in ((1, 2, (3, 4)), (2, 1, (1, 2))):
        gateway = prefix.format(other)
        width = "/128" if names.six else "/32"
        for target in (names.tor(other) + width, *map(names.subnet, nves)):
            boxes[number].route(target, "core", gateway)
    return boxes, far


def two_tors_config(lab, names, tors, number, tunnel):
    here = (1, 2) if number == 1 else (3, 4)
    config = ports(*here) + '[[port]]\nname = "core"\nfaces = "core"\n' + network(names)
    config += f'[device]\naddress = "{names.tor(number)}"\ntunnel = "{tunnel}"\n'
    if tunnel == "rewrite":  # NVEs learn each other's addresses from the outer source, so it has to stay
        everyone = "fd00:1::/32" if names.six else "10.1.0.0/16"
        config += f'source = "keep"\nallow_from = ["{everyone}"]\n'
    config += members(names.group, *here)
    config += f'[[device.peer]]\ngroup = "{names.group}"\naddresses = ["{names.tor(3 - number)}"]\n'
    return Fastpath(lab, tors[number], config, waits=False)


def speak_tcp(client, server, address, size):
    """Send so many bytes over a connection; how many came back."""
    with server.run(socket.create_server, (address, 5001)) as listener:
        listener.settimeout(5)
        with (
            client.run(socket.create_connection, (address, 5001), 5) as near,
            listener.accept()[0] as distant,
        ):
            near.settimeout(5)
            distant.settimeout(5)
            came = 0
            for _ in range(size // 10_000):
                near.sendall(bytes(10_000))
                got = 0
                while got < 10_000:
                    got += len(distant.recv(65536))
                distant.sendall(bytes(got))
                back = 0
                while back < got:
                    back += len(near.recv(65536))
                came += back
            return came


def test_a_frame_tagged_for_priority_alone_is_taken_and_one_of_a_vlan_is_left_alone(lab):
    names = Names(six=False)
    box, far = tor(lab, names, 1, 1, 2)
    vm = to_group(lab, far[2], names, 2)
    fastpath = Fastpath(
        lab, box, ports(1, 2) + f'[device]\naddress = "{names.tor(1)}"\n' + members(names.group, 1, 2)
    )
    wire = lab.packet_socket(far[1], "up")
    packet = f.vxlan_packet(numbered(7, b"\x02\xd0\0\0\0\1"), names.nve(1), names.group, 100)
    group_mac = bytes.fromhex("01005e010164")

    def tagged(vlan, priority):
        return f.ethernet(packet, f.IPV4, dst=group_mac, tags=[(0x8100, priority << 13 | vlan)])

    wire.send(tagged(5, 0))
    wire.send(tagged(5, 3))
    wire.send(tagged(0, 6))
    wire.send(f.ethernet(packet, f.IPV4, dst=group_mac))
    assert vm.heard(2) == [7, 7]
    assert fastpath.settled()["received"] == 2 + igmp(fastpath)


def igmp(fastpath):
    return fastpath.status()["punted"]


def test_what_the_device_forwards_draws_no_icmp_from_its_own_kernel(lab):
    names = Names(six=False)
    box, far = tor(lab, names, 1, 1, 2)
    Fastpath(lab, box, ports(1, 2) + network(names) + f'[device]\naddress = "{names.tor(1)}"\n'
             + members(names.group, 2, nves=[(1, names.nve(1))]))  # fmt: skip
    sender, receiver = to_remote(lab, far[1], names, 1, names.tor(1)), to_group(lab, far[2], names, 2)
    icmp = far[1].run(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with icmp:
        icmp.setblocking(False)
        sender.send(*MANY)
        assert receiver.heard(len(MANY)) == MANY
        with pytest.raises(BlockingIOError):
            icmp.recv(2048)
