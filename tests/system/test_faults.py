"""What breaks around the process: each fault has a counter and a log line, harms nobody else, and passes."""

import errno
import struct
from functools import partial

import pytest

from ctrl.lab.namespaces import missing
from tests import frames as f
from tests.system.lab import DEADLINE_S, ETH_P_ALL, Fastpath, Lab, numbered, plug, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
GROUP, VNI, DEVICE, PEER = "239.1.1.100", 100, "10.9.0.1", "10.1.3.2"
GROUP_MAC = bytes.fromhex("01005e010164")
VM_MAC = b"\x02\xd0\0\0\0\1"
ENDS = {n: (f"10.1.{n}.1/24", f"10.1.{n}.2/24") for n in (1, 2, 3)}
MEMBER, REWRITTEN = 2, 3
TRIED_S = 0.2
"""After so long without its copy, another frame is sent where one may be lost."""
BY_KIND = pytest.mark.parametrize("kind", ["packet", pytest.param("xdp", marks=pytest.mark.slow)])


class Scene:
    """An NVE that sends (1), one that is a member (2), and a peer behind the core (3)."""

    def __init__(self, lab):
        self.lab = lab
        self.box = lab.box("box", forwards=True)
        self.far = {n: lab.box(f"n{n}") for n in ENDS}
        for n, ends in ENDS.items():
            plug(self.box, f"p{n}", self.far[n], ends)
        self.box.address("lo", f"{DEVICE}/32")
        self.numbers = 0
        self.wires = {}
        for n in ENDS:
            self.listen(n)

    def listen(self, n):
        """Open a socket on the far end of a port, as a cable's other end would see it."""
        self.wires[n] = self.lab.packet_socket(self.far[n], "up", 0 if n == 1 else ETH_P_ALL)

    def start(self, dataplane="", kind="packet"):
        faces = {1: "nve", 2: "nve", 3: "core"}
        config = f"[dataplane]\n{dataplane}\n"
        config += "".join(f'[[port]]\nname = "p{n}"\nfaces = "{faces[n]}"\nkind = "{kind}"\n' for n in faces)
        config += f'[[network]]\nname = "blue"\nvni = {VNI}\ngroup = "{GROUP}"\n'
        config += f'[device]\naddress = "{DEVICE}"\ntunnel = "rewrite"\nsource = "keep"\n'
        config += f'[[device.member]]\ngroup = "{GROUP}"\nport = "p{MEMBER}"\n'
        config += f'[[device.peer]]\ngroup = "{GROUP}"\naddresses = ["{PEER}"]\n'
        self.fastpath = Fastpath(self.lab, self.box, config)
        return self.fastpath

    def frame(self, number, size=64):
        inner = numbered(number, VM_MAC, size)
        packet = f.vxlan_packet(inner, "10.1.1.2", GROUP, VNI, datagram={"checksum": f.ZERO})
        return f.ethernet(packet, f.IPV4, dst=GROUP_MAC)

    def has_received(self, frames):
        return self.fastpath.status()["received"] >= frames

    def send(self, size=64):
        """Send one frame of its own number."""
        self.numbers += 1
        self.wires[1].send(self.frame(self.numbers, size))
        return self.numbers

    def arrives(self, n, number, within_s=DEADLINE_S):
        """Say whether the copy of a number arrives at the far end of a port; its frame if so."""
        self.wires[n].settimeout(within_s)
        while True:
            try:
                frame = self.wires[n].recv(65536)
            except TimeoutError:
                return None
            except OSError as error:  # said once by a socket whose device went down and came up again
                if error.errno != errno.ENETDOWN:
                    raise
                continue
            inner = frame[50:]
            if len(inner) >= 18 and struct.unpack_from(">I", inner, 14)[0] == number:
                return frame

    def resumes(self, n, what, size=64):
        wait_for(lambda: self.arrives(n, self.send(size), TRIED_S), what)

    def only_the_other_gets_it(self, n, reason, size=64):
        """Assert that a copy to n is dropped for a reason, counted, and that the other one gets its copy."""
        before, copies_out = self.fastpath.drops().get(reason, 0), self.fastpath.settled()["copies_out"]
        number = self.send(size)
        other = MEMBER if n == REWRITTEN else REWRITTEN
        assert self.arrives(other, number) is not None
        wait_for(lambda: self.fastpath.status()["copies_out"] > copies_out, "the other copy is counted")
        assert self.fastpath.drops().get(reason, 0) == before + 1, self.fastpath.drops()

    def logs(self, *lines, within_s=5.0):
        for line in lines:
            wait_for(partial(self.has_said, line), f"the log says: {line}", within_s)

    def has_said(self, line):
        return line in self.fastpath.log


@pytest.fixture
def scene():
    with Lab("faults") as lab:
        yield Scene(lab)


@BY_KIND
@pytest.mark.parametrize("n", [MEMBER, REWRITTEN], ids=["member", "peer"])
def test_an_interface_that_goes_down_loses_its_own_copies_only_until_it_is_up_again(scene, n, kind):
    fastpath = scene.start(kind=kind)
    scene.resumes(n, "the first copy")
    scene.box.set_link(f"p{n}", state="down")
    scene.logs(f"link down device=p{n}")
    wait_for(lambda: fastpath.port(f"p{n}")["state"] == "down", "the port is shown down")
    scene.only_the_other_gets_it(n, "link_down")
    scene.box.set_link(f"p{n}", state="up")
    scene.logs(f"link up device=p{n}")
    scene.resumes(n, "copies, after the interface is up")
    assert fastpath.port(f"p{n}")["state"] == "up"


@BY_KIND
def test_a_far_end_that_goes_down_is_as_good_as_the_interface_itself(scene, kind):
    scene.start(kind=kind)
    scene.resumes(MEMBER, "the first copy")
    scene.far[MEMBER].set_link("up", state="down")
    scene.logs("link down device=p2")
    scene.only_the_other_gets_it(MEMBER, "link_down")
    scene.far[MEMBER].set_link("up", state="up")
    scene.resumes(MEMBER, "copies, after the far end is up")


def test_the_interface_that_receives_goes_down_and_up_and_receives_again(scene):
    scene.start()
    scene.resumes(MEMBER, "the first copy")
    scene.box.set_link("p1", state="down")
    scene.logs("link down device=p1")
    scene.box.set_link("p1", state="up")
    wait_for(lambda: scene.far[1].link("up").get_attr("IFLA_OPERSTATE") == "UP", "the cable")
    scene.resumes(MEMBER, "copies, after the interface is up")
    assert scene.fastpath.process.poll() is None


@pytest.mark.parametrize("n", [MEMBER, REWRITTEN], ids=["member", "peer"])
def test_an_mtu_that_shrinks_is_obeyed_at_once_and_one_that_grows_too(scene, n):
    fastpath = scene.start()
    scene.resumes(n, "the first copy", 1000)
    scene.box.set_link(f"p{n}", mtu=900)
    scene.logs(f"link mtu changed device=p{n} mtu=900 was=1650")
    wait_for(lambda: fastpath.port(f"p{n}")["mtu"] == 900, "the port is shown with it")
    scene.only_the_other_gets_it(n, "over_mtu", 1000)
    assert scene.arrives(n, scene.send(800)) is not None
    scene.box.set_link(f"p{n}", mtu=1650)
    scene.logs(f"link mtu changed device=p{n} mtu=1650 was=900")
    scene.resumes(n, "large copies again", 1000)


def test_a_neighbour_that_moves_to_another_mac_is_followed(scene):
    scene.start()
    scene.resumes(REWRITTEN, "the first copy")
    scene.far[REWRITTEN].sysctl("net/ipv4/conf/all/arp_notify", 1)  # it says so itself, as others do
    scene.far[REWRITTEN].set_link("up", address="02:5e:00:00:00:77")
    new = bytes.fromhex("025e00000077")

    def moved():
        frame = scene.arrives(REWRITTEN, scene.send(), TRIED_S)
        return frame is not None and frame[:6] == new

    wait_for(moved, "copies to the new MAC")
    scene.logs(f"neighbour moved device=p3 address={PEER} mac=02:5e:00:00:00:77")


def test_an_unresolved_neighbour_is_asked_for_and_counted_and_served_once_it_answers(scene):
    scene.far[REWRITTEN].netlink(
        lambda ip: ip.flush_addr(index=ip.link_lookup(ifname="up")[0]), "remove its address"
    )
    fastpath = scene.start()
    (tunnel,) = fastpath.show("tunnels")
    assert tunnel["state"] == "no_neighbour"
    before = scene.send()
    assert scene.arrives(MEMBER, before) is not None
    wait_for(lambda: fastpath.drops() == {"no_neighbour": 1}, "it is counted")
    assert fastpath.show("tunnels")[0]["dropped"] == 1
    scene.far[REWRITTEN].address("up", f"{PEER}/24")
    scene.resumes(REWRITTEN, "copies, after it answers")
    scene.logs(f"neighbour resolved device=p3 address={PEER}")
    assert fastpath.show("tunnels")[0]["state"] == "up"


@pytest.mark.parametrize(
    ("n", "kind"),
    [(1, "packet"), (MEMBER, "packet"), (REWRITTEN, "packet"), (MEMBER, "xdp")],
    ids=["sender", "member", "peer", "member_by_xdp"],
)
def test_a_namespace_that_is_deleted_and_made_again_is_taken_up_by_itself(scene, n, kind):
    fastpath = scene.start(kind=kind)
    for other in (MEMBER, REWRITTEN):
        scene.resumes(other, "the first copy")
    scene.wires[n].close()
    scene.far[n].close()
    scene.logs(f"link gone device=p{n}", f"port absent name=p{n}")
    wait_for(lambda: fastpath.port(f"p{n}")["state"] == "absent", "the port is shown absent")
    if n != 1:
        scene.only_the_other_gets_it(n, "link_down")
    scene.far[n] = scene.lab.box(f"again{n}")
    plug(scene.box, f"p{n}", scene.far[n], ENDS[n])
    scene.listen(n)
    scene.logs(f"port opened name=p{n}")
    for other in (MEMBER, REWRITTEN):
        scene.resumes(other, "copies, after it is back")
    assert f"fastpath-p{n}" in scene.box.command("nft", "list", "tables")
    assert fastpath.process.poll() is None


def test_an_interface_that_does_not_exist_yet_is_waited_for(scene):
    scene.box.delete_link("p2")
    scene.wires[MEMBER].close()
    fastpath = scene.start()
    assert fastpath.port("p2")["state"] == "absent"
    assert "there is no interface p2" in fastpath.port("p2")["why"]
    scene.only_the_other_gets_it(MEMBER, "link_down")
    plug(scene.box, "p2", scene.far[MEMBER], ENDS[MEMBER])
    scene.listen(MEMBER)
    scene.resumes(MEMBER, "copies, once it exists")


def overrun(scene):
    """Let more frames come than the smallest ring holds, while the process cannot look; how many were too
    many."""
    scene.start(dataplane="ring_frames = 256")
    with scene.fastpath.standing_still():
        for number in range(400):
            scene.wires[1].send(scene.frame(number))
    wait_for(lambda: "ring_full" in scene.fastpath.drops(), "the losses are counted")
    now = scene.fastpath.settled()
    return now["received"], scene.fastpath.drops()["ring_full"]


def test_a_full_ring_is_counted_to_the_frame_and_the_rest_is_forwarded(scene):
    received, lost = overrun(scene)
    assert received + lost == 400
    assert 256 <= received < 400
    assert scene.fastpath.port("p1")["ring_lost"] == lost
    scene.resumes(MEMBER, "copies, after the overrun")


def test_a_full_ring_is_said_in_the_log(scene):
    _, lost = overrun(scene)
    scene.logs(f"drops over ring_full={lost}")


WAVE = 100
SENT = 3 * WAVE


def refuse(scene):
    """Give the member's interface a queue that is soon full, and send more than it takes, in three waves: of
    a train that fits in part the kernel says nothing: the first spends what the queue lets out at once, the
    second fills it, and at 12.5 bytes/s no room comes free for any of the third."""
    queue = ("tbf", "rate", "100bit", "burst", "2000", "limit", "3000")
    scene.box.command("tc", "qdisc", "replace", "dev", "p2", "root", *queue)
    before = scene.fastpath.status()["copies_out"]
    for first in range(0, SENT, WAVE):
        for number in range(first, first + WAVE):
            scene.wires[1].send(scene.frame(number))
        wait_for(partial(scene.has_received, first + WAVE), "all are received")
    return scene.fastpath.settled()["copies_out"] - before


@pytest.mark.parametrize("trains", ["true", "false"], ids=["trains", "single"])
def test_copies_that_the_kernel_refuses_are_counted_and_cost_the_others_nothing(scene, trains):
    fastpath = scene.start(dataplane=f"trains = {trains}")
    copies_out = refuse(scene)
    refused = fastpath.drops()["port_refused"]
    assert refused >= WAVE
    assert copies_out + refused == 2 * SENT
    assert fastpath.port("p3")["copies_out"] == SENT
    assert fastpath.port("p2")["copies_out"] == SENT - refused
    scene.box.command("tc", "qdisc", "del", "dev", "p2", "root")
    scene.resumes(MEMBER, "copies, once the queue is gone")


def test_copies_that_the_kernel_refuses_are_said_in_the_log(scene):
    scene.start(dataplane="trains = false")
    refuse(scene)
    scene.logs("port_refused=")
