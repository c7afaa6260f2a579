"""How the daemon opens a configured port: the best that can be had, and why it is no better."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ctrl.config import Config, parse
from ctrl.consume import ConsumeError, ConsumeUnsupportedError
from ctrl.daemon import ports, reach
from ctrl.daemon.cloning import Cloning
from ctrl.daemon.ports import Opened, open_port
from ctrl.lab import namespaces
from ctrl.lab.namespaces import Lab, Namespace, connect
from fastpath import bpf
from fastpath.claims import Claims
from fastpath.ports import AbsentPort, ClonePort, PacketPort, XdpPort

pytestmark = pytest.mark.skipif(namespaces.missing() is not None, reason=str(namespaces.missing()))
needs_bpf = pytest.mark.skipif(bpf.available() is not None, reason=f"BPF: {bpf.available()}")
OTHER = Claims((4789,), (ip_address("10.0.0.9"),))


@pytest.fixture
def box() -> Iterator[Namespace]:
    with Lab("ports") as lab:
        here, far = lab.namespace("box"), lab.namespace("far")
        connect(here, "p1", far, "p1")
        yield here


def config_of(kind: str, workers: int = 1, **more: str) -> Config:
    keys = "".join(f"{key} = {value}\n" for key, value in more.items())
    reading = parse(
        f'[dataplane]\nworkers = {workers}\n{keys}[[port]]\nname = "a"\ndevice = "p1"\nkind = "{kind}"\n'
        'faces = "core"\n[device]\naddress = "10.0.0.1"\n'
    )
    assert reading.config
    return reading.config


def opened(box: Namespace, config: Config, cloning: Cloning | None = None) -> Opened:
    return box.run(open_port, config.ports[0], config, reach.claims(config), cloning)


def test_a_packet_port_sends_trains_and_has_a_filter_before_the_kernel_s_stack(box):
    port = opened(box, config_of("packet"))
    assert (port.transmit, port.is_absent, port.consumer is not None) == ("trains", False, True)
    assert port.index == box.index("p1")
    box.run(port.claim, OTHER)
    box.run(port.close)


def test_trains_that_are_switched_off_are_not_sent(box):
    port = opened(box, config_of("packet", trains="false"))
    assert port.transmit == "packet"
    box.run(port.close)


def test_each_worker_has_a_ring_of_its_own(box):
    port = opened(box, config_of("packet", workers=3))
    assert len({id(carrier) for carrier in port.carriers}) == 3
    assert all(isinstance(carrier, PacketPort) for carrier in port.carriers)
    box.run(port.close)


@needs_bpf
@pytest.mark.parametrize(("kind", "ways"), [("packet", "clones+trains"), ("xdp", "clones+trains+xdp")])
def test_where_bpf_is_allowed_copies_are_cloned_on_top_of_the_other_ways(box, kind, ways):
    cloning = Cloning()
    box.run(cloning.open, 2)
    port = opened(box, config_of(kind, workers=2), cloning)
    assert all(isinstance(carrier, ClonePort) for carrier in port.carriers)
    assert port.transmit == ways
    assert "the kernel makes the copies" in port.why
    box.run(port.close)
    box.run(cloning.close)


def test_where_it_is_not_the_port_says_why(box, monkeypatch):
    monkeypatch.setattr(bpf, "available", lambda: "bpf(2) is not permitted")
    cloning = Cloning()
    box.run(cloning.open, 1)
    port = opened(box, config_of("packet"), cloning)
    assert (port.transmit, "no clones: bpf(2) is not permitted" in port.why) == ("trains", True)
    box.run(port.close)


@needs_bpf
def test_where_the_kernel_refuses_the_program_why_is_one_line(box, monkeypatch, caplog):
    monkeypatch.setattr("fastpath.clones.clone_program", lambda table, n_records: [bpf.leave()])
    cloning = Cloning()
    with caplog.at_level("INFO"):
        box.run(cloning.open, 2)
    assert cloning.why.startswith("no clones: program 'fp_clones' of 1 instructions was refused")
    assert "\n" not in cloning.why
    assert "R0 !read_ok" in caplog.text
    assert cloning.counts == {}


def test_a_second_instance_on_an_interface_is_refused_and_the_first_goes_on(box):
    port = opened(box, config_of("packet"))
    with pytest.raises(
        ConsumeError, match="p1: this process already receives for fastpath on this interface"
    ):
        opened(box, config_of("packet"))
    box.run(port.claim, OTHER)
    box.run(port.close)
    box.run(opened(box, config_of("packet")).close)


def test_without_nf_tables_it_forwards_and_says_what_the_kernel_sees(box, monkeypatch):
    def refuse(device: str, claims: Claims) -> None:
        raise ConsumeUnsupportedError(93, device, "no nf_tables")

    monkeypatch.setattr(ports, "Consumer", refuse)
    port = opened(box, config_of("packet"))
    assert "the kernel sees the frames, too" in port.why
    box.run(port.close)


def test_an_interface_that_does_not_exist_is_absent_for_every_worker(box):
    config = config_of("packet", workers=2)
    box.delete_link("p1")
    port = opened(box, config)
    assert port.is_absent
    assert [type(carrier) for carrier in port.carriers] == [AbsentPort, AbsentPort]
    assert (port.transmit, port.why) == ("none", "there is no interface p1")


def test_an_xdp_port_on_a_veth_receives_by_af_packet_and_says_why(box):
    port = opened(box, config_of("xdp"))
    (carrier,) = port.carriers
    assert isinstance(carrier, XdpPort)
    assert carrier.receives == "packet"
    assert port.transmit == "trains+xdp"
    assert port.redirect is None
    assert "receives by AF_PACKET: " in port.why
    box.run(port.close)


def test_a_worker_without_a_queue_of_its_own_sends_by_af_packet_and_says_why(box):
    port = opened(box, config_of("xdp", workers=2))
    assert [type(carrier) for carrier in port.carriers] == [XdpPort, PacketPort]
    assert "no AF_XDP for worker 1: " in port.why
    box.run(port.close)


@needs_bpf
def test_where_the_driver_s_frames_are_whole_it_receives_by_af_xdp(box, monkeypatch):
    """Veth's are not: it is told otherwise here."""
    monkeypatch.setattr(ports, "reason_against", lambda device: None)
    port = opened(box, config_of("xdp", workers=2))
    assert [getattr(carrier, "receives", "packet") for carrier in port.carriers] == ["xdp", "packet"]
    assert "no queue for worker 1" in port.why
    assert box.link("p1").get_nested("IFLA_XDP", "IFLA_XDP_ATTACHED")
    box.run(port.claim, OTHER)
    box.run(port.close)
    assert not box.link("p1").get_nested("IFLA_XDP", "IFLA_XDP_ATTACHED")
