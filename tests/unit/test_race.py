"""The race of `fastpath bench wire`: what is offered, how it is counted and compared; nobody runs here."""

import time
from contextlib import AbstractContextManager, nullcontext
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from ctrl.race import latency, ours, traffic, wire
from ctrl.race.latency import Latency
from ctrl.race.sink import Count, Sink
from ctrl.race.traffic import BATCH, Load, Messages
from ctrl.race.wire import Row
from fastpath.forwarder import Forwarder
from fastpath.limit import Sender, XdpSender
from fastpath.model import Encap, Frame
from fastpath.ports import MemoryPort, cut_train
from fastpath.reference import Reference

KEYS = {
    "path", "egresses", "size", "train", "copies_per_s", "ns_per_copy", "ratio_to_kernel", "ratio_to_limit",
}  # fmt: skip
MORE_KEYS = {
    "segmentation", "encap", "ports", "fed", "ratio_to_kernel_trains", "latency_p50_us", "latency_p99_us",
    "why",
}  # fmt: skip
VNET = 10
LOADS = [Load(3, 64), Load(2, 333), Load(1, 1400), Load(3, 64, 1), Load(2, 65, 1, Encap.NVGRE)]


def named(load: Load) -> str:
    return f"{load.egresses}x{load.size}x{load.train}-{load.encap.name}"


def settled(datagram: bytes) -> bytes:
    """Leave out the identification, and the checksums, which trains fill and single copies do not."""
    udp = datagram[23] == 17
    return datagram[:18] + datagram[20:24] + datagram[26:40] + (datagram[42:] if udp else datagram[40:])


def datagrams(messages: Messages) -> list[bytes]:
    """Cut trains whose payload follows their head in one piece."""
    return [
        datagram
        for message in messages.heads
        for datagram in cut_train(
            message[VNET : VNET + 42], message[VNET + 42 :], traffic.VNET.unpack(message[:VNET])[3]
        )
    ]


@pytest.mark.parametrize("load", LOADS, ids=named)
def test_the_rivals_send_what_fastpath_makes_of_the_same_frames(load):
    reference = Reference(ours.layout(load), [ours.receivers(load)])
    outcomes = [reference.forward(0, Frame(frame)) for frame in traffic.arriving(load)]
    expected = [settled(copy.data) for outcome in outcomes for copy in outcome.copies]
    rival = traffic.copies(load)
    assert len(expected) == BATCH * load.egresses == rival.copies
    assert [settled(head + tail) for head, tail in zip(rival.heads, rival.payloads, strict=True)] == expected
    assert traffic.prebuilt(load, 7) == [
        head + tail for head, tail in zip(rival.heads[:7], rival.payloads[:7], strict=True)
    ]


@pytest.mark.parametrize("load", LOADS[:3], ids=named)
def test_prebuilt_trains_are_the_same_copies_together(load):
    trains, single = traffic.trains(load), traffic.copies(load)
    cut = [
        datagram
        for head, payload in zip(trains.heads, trains.payloads, strict=True)
        for datagram in cut_train(head[VNET:], payload, traffic.VNET.unpack(head[:VNET])[3])
    ]
    assert trains.copies == single.copies == len(cut)
    expected = [settled(head + tail) for head, tail in zip(single.heads, single.payloads, strict=True)]
    assert sorted(map(settled, cut)) == sorted(expected)


@pytest.mark.parametrize("load", LOADS[:3], ids=named)
def test_prebuilt_trains_are_those_that_fastpath_hands_to_a_port(load):
    source, sink = MemoryPort(), MemoryPort(trains=True)
    source.receive(*traffic.arriving(load))
    forwarder = Forwarder(
        ours.layout(load), (source, sink), [ours.receivers(load)], sources=(source,), batch=BATCH
    )
    assert forwarder.run() == BATCH

    def without_identification(head: bytes) -> bytes:
        return head[:18] + head[20:24] + head[26:]

    expected = {(without_identification(head), payload) for head, payload, _ in sink.records()}
    trains = traffic.trains(load)
    made = [
        (without_identification(head[VNET:]), payload)
        for head, payload in zip(trains.heads, trains.payloads, strict=True)
    ]
    assert len(made) == len(expected) == 5 * load.egresses
    assert set(made) == expected


@pytest.mark.parametrize("load", LOADS[:3], ids=named)
def test_what_an_nve_sends_in_trains_is_what_it_sends_one_by_one(load):
    made = traffic.arriving_trains(load)
    assert (made.copies, len(made.heads)) == (BATCH, 5)
    assert list(map(settled, datagrams(made))) == list(map(settled, traffic.arriving(load)))


def test_receivers_are_dealt_out_to_the_ports_in_turn():
    load = Load(5, 64, ports=2)
    reference = Reference(ours.layout(load), [ours.receivers(load)])
    copies = reference.forward(0, Frame(traffic.arriving(load)[0])).copies
    behind = {IPv4Address(copy.data[30:34]): copy.out_port for copy in copies}
    assert behind == dict(zip(load.receivers, (1, 2, 1, 2, 1), strict=True))
    assert all(address in traffic.behind(port - 1) for address, port in behind.items())
    assert Load(5, 64).receivers == [IPv4Address("10.8.0.1") + n for n in range(5)]


def test_a_vm_s_own_trains_are_its_frames_together():
    load = Load(1, 100)
    made = traffic.inner_trains(load)
    cut = datagrams(made)
    assert made.copies == len(cut) == BATCH
    assert {len(datagram) for datagram in cut} == {100}
    assert [one[42:] for one in cut] == [traffic.inner(load, flow)[42:] for flow in load.flows]


def test_a_virtio_header_names_the_whole_train_unless_the_kernel_is_to_clone_it():
    head = traffic.trains(Load(1, 64)).heads[0]
    assert traffic.VNET.unpack(head[:VNET]) == (1, 5, 42 + 44 * 72, 72, 34, 6)
    head = traffic.inner_trains(Load(1, 64)).heads[0]
    assert traffic.VNET.unpack(head[:VNET]) == (1, 5, 42, 22, 34, 6)


def test_a_train_is_shorter_where_64_kb_have_no_room():
    assert traffic.longest_train(1400) == 44
    assert traffic.longest_train(1500) == 43
    trains = traffic.trains(Load(1, 1500, 43))
    assert [len(payload) // 1508 for payload in trains.payloads] == [43, 43, 43, 43, 43, 5]


def test_by_default_two_sizes_race_at_two_fan_outs():
    assert wire.loads(None, None, full=False) == [
        Load(8, 64), Load(50, 64), Load(8, 1400), Load(50, 1400),
    ]  # fmt: skip
    assert wire.loads(7, 99, full=False) == [Load(7, 99)]
    assert wire.loads(None, 1500, full=False)[0].train == 43
    assert {one.ports for one in wire.loads(None, None, full=True, ports=3)} == {3}


def test_in_full_trains_are_on_and_off_and_on_without_segmentation_and_nvgre_goes_singly():
    found = wire.loads(None, None, full=True)
    assert {(one.egresses, one.size) for one in found} == {
        (fan_out, size) for fan_out in (1, 8, 50, 256) for size in (64, 512, 1400)
    }
    ways = {(one.train, one.segmentation, one.encap) for one in found}
    vxlan, nvgre = Encap.VXLAN, Encap.NVGRE
    assert ways == {(44, True, vxlan), (1, True, vxlan), (44, False, vxlan), (1, True, nvgre)}
    assert len(found) == 48 == len(set(found))
    assert wire.loads(3, None, full=True)[0].egresses == 3


def test_everybody_who_is_in_the_table_runs():
    assert sorted(wire.ORDER) == sorted(wire.PATHS)


def test_nvgre_races_only_where_single_copies_do():
    assert list(wire.paths(Load(1, 64, 1, Encap.NVGRE))) == [
        "clones", "xdp", "packet", "sendmmsg", "limit_clones", "limit_xdp",
    ]  # fmt: skip
    assert list(wire.paths(Load(1, 64))) == [
        "clones", "trains", "xdp", "packet", "forward_clones", "forward", "kernel", "kernel_trains",
        "sendmmsg", "limit_clones", "limit", "limit_xdp",
    ]  # fmt: skip


def test_ratios_are_to_the_same_load_and_to_one_s_own_limit():
    one, other = Load(8, 64), Load(50, 64)
    rates = {"trains": 20e6, "xdp": 1e6, "kernel": 0.8e6, "limit": 25e6, "limit_xdp": 1.25e6}
    rows = [Row(path, one, rate) for path, rate in rates.items()] + [Row("trains", other, 3e6)]
    found = {(row["path"], row["egresses"]): row for row in wire.objects(rows, [])}
    trains, xdp = found["trains", 8], found["xdp", 8]
    assert (trains["ratio_to_kernel"], trains["ratio_to_limit"]) == (25.0, 0.8)
    assert (xdp["ratio_to_kernel"], xdp["ratio_to_limit"]) == (1.25, 0.8)
    assert (trains["copies_per_s"], trains["ns_per_copy"]) == (20_000_000, 50.0)
    assert found["limit", 8]["ratio_to_limit"] == found["limit_xdp", 8]["ratio_to_limit"] == 1.0
    assert found["trains", 50]["ratio_to_kernel"] is found["trains", 50]["ratio_to_limit"] is None


def test_a_ratio_is_said_to_be_to_a_kernel_that_is_fed_frames_or_one_that_is_fed_trains():
    load = Load(50, 64)
    rates = {"forward_clones": 51e6, "clones": 6e7, "kernel": 1e6, "kernel_trains": 3e7, "limit_clones": 6e7}
    found = wire.objects([Row(path, load, rate) for path, rate in rates.items()], [])
    assert [row["fed"] for row in found] == ["trains", "memory", "frames", "trains", "prebuilt"]
    forwarded = found[0]
    assert (forwarded["ratio_to_kernel"], forwarded["ratio_to_kernel_trains"]) == (51.0, 1.7)
    assert forwarded["ratio_to_limit"] == 0.85
    assert {wire.fed(path, Load(50, 64, 1)) for path in wire.LIVE} == {"frames"}


def test_who_sends_by_one_port_only_has_no_figure_where_receivers_are_behind_several():
    track: Any = None
    found = [wire.run(track, path, Load(4, 64, ports=2), 0.1) for path in wire.ONE_PORT]
    assert {(row.copies_per_s, row.why) for row in found} == {(None, "sends by one port only")}


def test_single_nvgre_copies_are_held_against_prebuilt_ones_by_af_xdp():
    load = Load(8, 64, 1, Encap.NVGRE)
    rows = [Row("packet", load, 0.6e6), Row("limit_xdp", load, 1e6)]
    packet, _ = wire.objects(rows, [])
    assert (packet["encap"], packet["ratio_to_limit"], packet["ratio_to_kernel"]) == ("nvgre", 0.6, None)


def test_an_object_has_the_promised_keys_and_no_figure_where_nothing_ran():
    (found,) = wire.objects([Row("xdp", Load(4, 64), None, "AF_XDP: no such thing here")], [])
    assert set(found) == KEYS | MORE_KEYS
    assert (found["copies_per_s"], found["ns_per_copy"]) == (None, None)
    assert found["why"] == "AF_XDP: no such thing here"


def test_latency_stands_with_the_path_and_load_that_it_was_measured_for():
    loads = [Load(8, 64), Load(50, 64), Load(8, 64, 1)]
    rows = [Row(path, load, 1e6) for path in ("forward", "trains") for load in loads]
    found = wire.objects(rows, [Latency("forward", Load(8, 64), 1000, 1000, 35.5, 86.25)])
    assert [row["latency_p50_us"] for row in found] == [35.5, None, None, None, None, None]
    assert [row["latency_p99_us"] for row in found] == [86.25, None, None, None, None, None]


@pytest.mark.parametrize(
    ("load", "packet", "inner_trains"),
    [
        (Load(1, 64), 42 + 44 * 72, False),
        (Load(1, 64), 50 + 42 + 44 * 22, True),
        (Load(1, 1400, 1), 1450, False),
        (Load(1, 64, 1, Encap.NVGRE), 106, False),
    ],
    ids=["trains", "inner trains", "single", "nvgre"],
)
def test_the_counters_of_an_interface_tell_datagrams_by_their_bytes(load, packet, inner_trains):
    sink = Sink.__new__(Sink)
    sink.why_not_exact = "no bpf"
    before, after = Count(10, 1000), Count(10 + 3, 1000 + 3 * packet)
    assert sink.copies(load, before, after, inner_trains=inner_trains) == 3 * load.train
    assert sink.copies(load, before, before) == 0


def test_of_three_passes_the_best_one_counts_and_others_run_in_between(monkeypatch):
    rates = iter([5.0, 7.0, None, 6.0, 4.0, 8.0])
    ran = []

    def run(track: object, path: str, load: Load, seconds: float) -> Row:
        ran.append((path, seconds))
        return Row(path, load, next(rates))

    monkeypatch.setattr(wire, "run", run)
    monkeypatch.setattr(wire, "paths", lambda load: ("kernel", "trains"))
    track: Any = SimpleNamespace(segmentation=nullcontext)
    found = wire.race(track, Load(1, 64), 3.0)
    assert [(row.path, row.copies_per_s) for row in found] == [("kernel", 8.0), ("trains", 5.0)]
    assert ran == [("trains", 1.0), ("kernel", 1.0)] * 3


def test_what_the_system_refuses_is_the_row_s_reason(monkeypatch):
    def refuse(track: object, load: Load) -> AbstractContextManager[object]:
        raise OSError(1, "Operation not permitted", "AF_XDP: bind")

    monkeypatch.setitem(wire.PATHS, "xdp", refuse)
    track: Any = None
    row = wire.run(track, "xdp", Load(1, 64), 0.1)
    assert (row.copies_per_s, row.why) == (None, "AF_XDP: bind: Operation not permitted")


def test_all_copies_of_a_train_are_told_apart_by_their_numbers():
    load = Load(1, 100)
    head, payload = traffic.trains(load).heads[0][VNET:], traffic.trains(load).payloads[0][: 2 * 108]
    train = bytearray(head + payload)
    train[42 + 108 - 4 : 42 + 108] = (7).to_bytes(4, "big")
    train[42 + 216 - 4 : 42 + 216] = (8).to_bytes(4, "big")
    assert latency.numbers(bytes(train), load) == [7, 8]
    assert latency.numbers(bytes(train[: 42 + 108]), load) == [7]


def test_the_best_slice_counts_and_no_step_takes_long(monkeypatch):
    """Ctrl-C waits for the end of a step."""
    clock = SimpleNamespace(now=0.0, n=0)
    steps: list[float] = []

    def step(seconds: float) -> None:
        steps.append(seconds)
        clock.now += seconds
        clock.n += 1000 if clock.now < 1 else 10

    track: Any = SimpleNamespace(
        sink=SimpleNamespace(read=lambda: clock.n, copies=lambda load, before, after, **_: after - before)
    )
    monkeypatch.setitem(wire.PATHS, "trains", lambda track, load: nullcontext(step))
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    row = wire.run(track, "trains", Load(1, 64), 5.0)
    assert max(steps) == pytest.approx(wire.STEP_S)
    assert row.copies_per_s == pytest.approx(4 * 1000, rel=0.3)


def test_a_path_of_which_no_copy_arrived_says_so(monkeypatch):
    track: Any = SimpleNamespace(
        sink=SimpleNamespace(read=lambda: 0, copies=lambda load, before, after, **_: after - before)
    )
    monkeypatch.setitem(wire.PATHS, "trains", lambda track, load: nullcontext(time.sleep))
    row = wire.run(track, "trains", Load(1, 64), 0.01)
    assert (row.copies_per_s, row.why) == (None, "no copy arrived")


def test_a_sender_wants_messages_and_an_af_xdp_frame_fits_its_chunk():
    with pytest.raises(ValueError, match="0 heads, 0 payloads"):
        Sender(0, [])
    with pytest.raises(ValueError, match="2 heads, 1 payloads"):
        Sender(0, [b"a", b"b"], [b"c"])
    with pytest.raises(ValueError, match="none over 2048 bytes"):
        XdpSender(1, [bytes(2049)])
    with pytest.raises(OSError, match="Bad file descriptor: 'sendmmsg'"):
        Sender(-1, [b"a"]).send(0.01)
