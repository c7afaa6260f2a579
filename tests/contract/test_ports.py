"""What every port does, whatever its kind: the same cases for each row of KINDS.

Each case goes through the reference as well: frames that the neighbour sends to the port, or that come in
elsewhere and leave by the port, make the same copies, byte for byte and in order, with the books balanced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest

from fastpath.forwarder import Forwarder
from fastpath.model import Encap, Form, Frame, Layout, Mark, ReplicationList, Verdict
from fastpath.ports import MemoryPort
from fastpath.punts import Punts
from fastpath.reasons import Unit
from fastpath.reference import Reference
from fastpath.statistics import Statistics
from tests import frames as f
from tests import tenants
from tests.cases import box as b
from tests.cases import made as m
from tests.compiled import Arrival, Sent, referred
from tests.contract import kinds

Bench = kinds.Bench


@pytest.fixture(params=kinds.KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if reason := kinds.why_not(request.param):
        pytest.skip(reason)
    with ExitStack() as stack:
        yield stack.enter_context(kinds.KINDS[request.param]())


class Box:
    """A forwarder with the port under test in one place of a layout, and memory ports in all others."""

    def __init__(
        self,
        bench: Bench,
        place: int,
        lists: Sequence[ReplicationList] = b.LISTS,
        layout: Layout = b.BOX,
        trains: bool = False,
        punts: Punts | None = None,
    ) -> None:
        self.layout, self.lists, self.bench, self.place = layout, lists, bench, place
        self.ports = [MemoryPort(1 << 22) for _ in layout.ports]
        ports = [bench.port if i == place else port for i, port in enumerate(self.ports)]
        self.forwarder = Forwarder(layout, ports, lists, trains=trains, punts=punts)

    def forward(self, in_port: int, *frames: Frame) -> Sent:
        """Let frames come in on one port, few enough at once for any queue; say what became of all."""
        for at in range(0, len(frames), 100):
            if in_port == self.place:
                self.bench.send(*frames[at : at + 100])
            else:
                self.ports[in_port].receive(*frames[at : at + 100])
            self.until(min(at + 100, len(frames)))
        return self.sent()

    def until(self, n_frames: int) -> None:
        """Forward until so many frames came in, and no more do."""
        patience = time.monotonic() + kinds.PATIENCE_S
        while self.forwarder.statistics().received < n_frames and time.monotonic() < patience:
            self.forwarder.run()
        self.forwarder.run()
        assert self.forwarder.statistics().received == n_frames

    def sent(self) -> Sent:
        """What became of all frames so far; the books are balanced."""
        counted = self.forwarder.statistics()
        copies = [
            self.bench.receive(row.copies_out) if i == self.place else self.ports[i].take()
            for i, row in enumerate(counted.ports)
        ]
        assert_balanced(counted, copies)
        verdicts = {
            Verdict.REPLICATE: counted.replicated,
            Verdict.PUNT: counted.punted,
            Verdict.DROP: counted.dropped,
        }
        drops = [{d.reason.name: d.count for d in counted.drops if d.reason.unit is unit} for unit in Unit]
        by_unit = dict(zip(Unit, drops, strict=True))
        return Sent(
            {verdict: n for verdict, n in verdicts.items() if n},
            by_unit[Unit.FRAME],
            by_unit[Unit.COPY],
            tuple(map(tuple, copies)),
        )

    def refers(self, in_port: int, *frames: Frame) -> Sent:
        """What the reference says that becomes of them."""
        arrivals: list[Arrival] = [(in_port, frame) for frame in frames]
        return referred(Reference(self.layout, self.lists), arrivals, len(self.ports))


def assert_balanced(counted: Statistics, copies: Sequence[Sequence[bytes]]) -> None:
    frames = sum(row.count for row in counted.drops if row.reason.unit is Unit.FRAME)
    assert counted.received == counted.replicated + counted.punted + counted.dropped
    assert counted.received == sum(row.received for row in counted.ports)
    assert counted.dropped == frames
    assert [row.copies_out for row in counted.ports] == [len(one) for one in copies]
    assert counted.copies_out == sum(row.copies for row in counted.egresses) == sum(map(len, copies))
    assert sum(row.bytes for row in counted.egresses) == sum(len(data) for one in copies for data in one)
    assert sum(row.dropped for row in counted.egresses) == counted.copies_dropped


SIZES = (0, 1, 18, 37, 512, 900, 1400)
FROM_NVE = [
    *(Frame(m.from_nve(f.tenant(size=n), datagram={"checksum": f.RIGHT})) for n in SIZES),
    *(Frame(m.from_nve(f.tenant(size=n))) for n in SIZES),
    Frame(m.from_nve(f.arp())),
    Frame(m.from_nve6(m.TENANT6, datagram={"checksum": f.RIGHT})),
    Frame(m.gre_from_nve()),
]
OPEN = -3
"""A checksum besides `ZERO` and `RIGHT`: left to be finished, in IPv4."""
EVERY_FORM = (
    b.of_group(
        b.at_port(b.P0),
        b.at_nve(b.P0, "10.1.1.3"),
        b.at_nve(b.P0, "10.1.1.4", source=b.addr(b.OWN)),
        b.at_nve(b.P0, "10.1.1.5", source=b.addr(b.OWN), encap=Encap.NVGRE),
        b.at_nve(b.P0, "2001:db8:1::3", source=b.addr(b.OWN6)),
        remote=(
            b.at_peer(b.P0, b.PEER),
            b.at_peer(b.P0, b.FAR_PEER, Form.REWRITE),
            b.at_peer(b.P0, b.PEER6, source=b.OWN6),
        ),
    ),
    b.of_group(
        b.at_port(b.P0, b.GROUP6), b.at_nve(b.P0, "2001:db8:1::4", source=b.addr(b.OWN6)), group=b.GROUP6
    ),
)
"""All on the port under test."""


def test_frames_that_come_in_make_the_right_copies(bench: Bench) -> None:
    box = Box(bench, b.P1)
    assert box.forward(b.P1, *FROM_NVE) == box.refers(b.P1, *FROM_NVE)


def test_a_nested_packet_that_comes_in_makes_the_right_copies(bench: Bench) -> None:
    box = Box(bench, b.CORE)
    frames = [Frame(m.from_peer(f.vxlan_packet(f.tenant(size=n), b.VTEP, b.GROUP, b.VNI))) for n in SIZES]
    assert box.forward(b.CORE, *frames) == box.refers(b.CORE, *frames)


def test_many_frames_of_many_flows_come_in_in_the_order_in_which_they_were_sent(bench: Bench) -> None:
    box = Box(bench, b.P1, b.of_only(b.at_port(b.P0)))
    frames = [Frame(m.from_nve(f.tenant(size=16 + 31 * i % 1000, sport=1024 + i))) for i in range(700)]
    assert box.forward(b.P1, *frames) == box.refers(b.P1, *frames)


def test_a_tag_of_vlan_0_does_not_hide_a_frame(bench: Bench) -> None:
    """A priority tag may arrive out of band (LIMITS trap 13)."""
    box = Box(bench, b.P1)
    frames = [replace(frame, vlan=(f.TAG, 0xA000)) for frame in FROM_NVE]
    sent = box.forward(b.P1, *frames)
    assert sent == box.refers(b.P1, *FROM_NVE)


@pytest.mark.parametrize("inner", [False, True], ids=["outer", "inner"])
def test_an_unfinished_checksum_is_finished_in_every_copy(bench: Bench, inner: bool) -> None:
    """A Linux NVE leaves the outer sum, or that of its VM, to the device (LIMITS trap 12)."""
    box = Box(bench, b.P1)
    frame = unfinished_inside() if inner else f.unfinished(Frame(m.from_nve(datagram={"checksum": f.RIGHT})))
    assert frame is not None
    right = box.refers(b.P1, Frame(m.from_nve(datagram={"checksum": f.RIGHT})))
    sent = box.forward(b.P1, frame)
    assert sent == box.refers(b.P1, frame)
    assert sent.copies == right.copies


def unfinished_inside() -> Frame:
    """FROM_NVE, left open in the VM's datagram: the outer sum is right once that one is."""
    done = m.from_nve(datagram={"checksum": f.RIGHT})
    at = done.index(m.TENANT) + 34
    sum_so_far = f.internet_checksum(f.pseudo("172.16.5.9", "239.77.1.3", f.UDP, len(done) - at)) ^ 0xFFFF
    return Frame(done[: at + 6] + sum_so_far.to_bytes(2, "big") + done[at + 8 :], Mark(at, 6))


@pytest.mark.parametrize("in_port", [b.P1, b.CORE])
def test_copies_of_every_form_leave_byte_for_byte(bench: Bench, in_port: int) -> None:
    box = Box(bench, b.P0, EVERY_FORM)
    assert box.forward(in_port, *FROM_NVE) == box.refers(in_port, *FROM_NVE)


def test_copies_over_the_mtu_are_refused_and_the_others_leave(bench: Bench) -> None:
    ports = tuple(replace(port, mtu=700) for port in b.PORTS)
    box = Box(bench, b.P0, EVERY_FORM, replace(b.BOX, ports=ports))
    sent = box.forward(b.P1, *FROM_NVE)
    assert sent == box.refers(b.P1, *FROM_NVE)
    assert sent.copy_drops["over_mtu"] > 0


def test_what_is_for_nobody_is_dropped_and_counted(bench: Bench) -> None:
    box = Box(bench, b.P1, b.of_only(b.at_port(b.P0, "239.9.9.9"), group="239.9.9.9"))
    frames = [Frame(m.from_nve()), Frame(m.from_nve6(datagram={"checksum": f.RIGHT}))]
    sent = box.forward(b.P1, *frames)
    assert sent == box.refers(b.P1, *frames)
    assert sent.reasons == {"unknown_group": 2}


@pytest.mark.parametrize("bench", kinds.TRAINS, indirect=True)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("checksum", [f.ZERO, f.RIGHT, OPEN], ids=["without", "with", "unfinished"])
@pytest.mark.parametrize("sizes", [(37,) * 44, (1400,) * 40, (37, 37, 20, 37), (1,) * 200], ids=len)
def test_a_train_out_is_the_datagrams_of_the_copies(
    bench: Bench, sizes: tuple[int, ...], checksum: int, version: int
) -> None:
    """But for what segmentation sets: the UDP checksum is always full, IPv4 identifications count on."""
    box = Box(bench, b.P0, EVERY_FORM, trains=True)
    make = m.from_nve if version == 4 else m.from_nve6
    udp = {"checksum": f.RIGHT if version == 6 or checksum == OPEN else checksum}
    made = [Frame(make(f.tenant(size=n), datagram=udp)) for n in sizes]
    frames = [f.unfinished(frame) or frame for frame in made] if checksum == OPEN else made
    sent, want = box.forward(b.P1, *frames), box.refers(b.P1, *frames)
    assert sent.verdicts == want.verdicts
    assert sorted(map(comparable, sent.copies[b.P0])) == sorted(map(comparable, want.copies[b.P0]))
    counted = box.forwarder.statistics()
    assert bench.port.trains
    assert counted.trains > 0
    assert counted.train_copies > counted.copies_out // 2


BESIDE = b.at_nve(b.SMALL, "10.2.2.3")


@pytest.mark.parametrize("bench", kinds.TRAINS, indirect=True)
@pytest.mark.parametrize(
    "one",
    [
        b.of_group(BESIDE, b.at_nve(b.P0, "10.1.1.3")),
        b.of_group(BESIDE, remote=(b.at_peer(b.P0, b.FAR_PEER, Form.REWRITE),)),
        b.of_group(remote=(b.at_peer(b.P0, b.PEER),)),
    ],
    ids=["rewritten", "to a peer", "nested"],
)
def test_what_a_train_carries_and_a_copy_beside_it_have_the_right_sum(
    bench: Bench, one: ReplicationList
) -> None:
    """Of frames whose sender left it: a train needs none of its own, what stands in one does."""
    box = Box(bench, b.P0, [one], trains=True)
    frame = f.unfinished(Frame(m.from_nve(datagram={"checksum": f.RIGHT})))
    assert frame is not None
    frames = [frame] * 9
    sent, want = box.forward(b.P1, *frames), box.refers(b.P1, *frames)
    assert sorted(map(comparable, sent.copies[b.P0])) == sorted(map(comparable, want.copies[b.P0]))
    assert sent.copies[b.SMALL] == want.copies[b.SMALL]
    assert box.forwarder.statistics().trains == 1


def comparable(data: bytes) -> bytes:
    """A copy without what segmentation may choose, and which must be right: identification, outer sums."""
    version, out = data[14] >> 4, bytearray(data)
    udp, protocol, addresses = (34, data[23], data[26:34]) if version == 4 else (54, data[20], data[22:54])
    if version == 4:
        assert f.internet_checksum(data[14:34]) == 0
        out[18:20] = out[24:26] = bytes(2)
    if protocol == f.UDP:
        pseudo = addresses + (len(data) - udp).to_bytes(4, "big") + bytes((0, 0, 0, f.UDP))
        assert data[udp + 6 : udp + 8] == bytes(2) or f.internet_checksum(pseudo + data[udp:]) == 0
        out[udp + 6 : udp + 8] = bytes(2)
    return bytes(out)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("made", [tenants.datagram, tenants.segment], ids=["udp", "tcp"])
@pytest.mark.parametrize("sizes", [(37,) * 44, (1300,) * 40 + (77,)], ids=len)
def test_a_train_to_a_vm_is_its_frames_byte_for_byte(
    bench: Bench, sizes: tuple[int, ...], made: Callable[..., bytes], version: int
) -> None:
    """However a kernel cuts it: identifications, sequence numbers and checksums are those that came."""
    box = Box(bench, b.VM_GREEN, b.of_only(b.at_vm(b.VM_GREEN)), trains=True)
    inner = [
        made(i, n, version, **({"at": i * sizes[0]} if made is tenants.segment else {}))
        for i, n in enumerate(sizes)
    ]
    takes_trains = bench.port.trains
    sent = box.forward(b.P1, *(Frame(m.from_nve(one)) for one in inner))
    assert list(sent.copies[b.VM_GREEN]) == inner
    assert box.forwarder.statistics().train_copies == (len(sizes) if takes_trains else 0)


@pytest.mark.parametrize("bench", kinds.LINUX, indirect=True)
def test_a_super_frame_that_comes_in_is_cut_into_its_datagrams(bench: kinds.LinuxBench) -> None:
    box = Box(bench, b.P1, b.of_only(b.at_port(b.P0)))
    tenants = [f.tenant(size=100, sport=5000 + i) for i in range(300)]
    singles = [Frame(m.from_nve(tenant, datagram={"checksum": f.RIGHT})) for tenant in tenants]
    for part in (tenants[:128], tenants[128:256], tenants[256:299], [*tenants[299:], f.tenant(size=60)]):
        segments = [f.vxlan_header(b.VNI) + tenant for tenant in part]
        whole = f.wire(f.ip(f.udp(b"".join(segments), b.VTEP, b.GROUP), b.VTEP, b.GROUP, f.UDP))
        sum_so_far = f.internet_checksum(f.pseudo(b.VTEP, b.GROUP, f.UDP, len(whole) - 34)) ^ 0xFFFF
        bench.send_super(
            whole[:40] + sum_so_far.to_bytes(2, "big") + whole[42:], kinds.UDP_L4, len(segments[0]), 34, 6
        )
    box.until(301)
    singles.append(Frame(m.from_nve(f.tenant(size=60), datagram={"checksum": f.RIGHT})))
    sent, want = box.sent(), box.refers(b.P1, *singles)
    assert sent.verdicts == want.verdicts
    assert list(map(comparable, sent.copies[b.P0])) == list(map(comparable, want.copies[b.P0]))


REPORTS = [f.wire(f.igmp(b.VTEP, "224.0.0.22")), f.wire(f.mld("fe80::2", "ff02::16", body=bytes(27)))]


@pytest.mark.parametrize("vlan", [None, (f.TAG, 0xA000)], ids=["untagged", "tagged"])
def test_igmp_and_mld_cross_to_control_as_they_were_on_the_wire(bench: Bench, vlan: tuple[int, int]) -> None:
    """Whether the kernel takes the tag out of the frame, or leaves it in (LIMITS trap 13)."""
    box = Box(bench, b.P1, punts=Punts())
    frames = [Frame(data, vlan=vlan) for data in REPORTS]
    sent = box.forward(b.P1, *frames)
    assert sent.verdicts == {Verdict.PUNT: 2}
    got = [(port, data) for port, _, data, _ in box.forwarder.read_punted()]
    assert got == [(b.P1, kinds.on_the_wire(frame)) for frame in frames]


def test_a_frame_of_our_own_leaves_as_it_is_and_we_do_not_hear_it(bench: Bench) -> None:
    box = Box(bench, b.P1)
    for data in REPORTS:
        bench.port.send(data)
    assert bench.receive(2) == REPORTS
    box.until(0)


@pytest.mark.parametrize("bench", kinds.LIVE, indirect=True)
def test_frames_of_our_own_leave_beside_a_running_worker(bench: Bench) -> None:
    """Neither they nor the copies suffer."""
    n = 300
    box = Box(bench, b.P0, b.of_only(b.at_port(b.P0)))
    copied = [m.from_nve(f.tenant(sport=1024 + i)) for i in range(n)]
    ours = [f.wire(f.igmp(f"10.1.{i >> 8}.{i & 255}", "224.0.0.1", 0x11)) for i in range(n)]
    box.ports[b.P1].receive(*copied)
    box.forwarder.start()
    try:
        for data in ours:
            bench.port.send(data)
    finally:
        box.forwarder.stop(drain_s=5)
    got = bench.receive(2 * n)
    assert [data for data in got if data in set(ours)] == ours
    assert len(got) == 2 * n == n + box.forwarder.statistics().copies_out


@pytest.mark.parametrize("bench", kinds.LINUX, indirect=True)
def test_a_frame_of_our_own_that_the_kernel_does_not_take_is_an_error(bench: kinds.LinuxBench) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        bench.port.send(b"short")
    bench.port.send(REPORTS[0])
    assert bench.receive(1) == REPORTS[:1]
    assert not isinstance(bench.port, MemoryPort)
    bench.port.close()
    with pytest.raises(OSError, match=r"closed|Bad file descriptor"):
        bench.port.send(REPORTS[0])
