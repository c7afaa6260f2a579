"""Unicast of our own NVE: what a frame costs through classification where its two MACs are among very many.

100 000 MACs hit at random: destinations at a thousand VTEPs, sources at the VM port they come from, so each
frame is looked up twice and refreshes an entry. Raced against the same frames without a table, which go to a
list with one tunnel; each side is also booked by its own stage's clock.
"""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np
import pytest

from bench.conftest import Race
from bench.figures import Target
from bench.traffic import BATCH, BATCHES, FIRST_PEER, OURS, SLACK, VNI, mac
from fastpath.forwarder import Forwarder
from fastpath.model import (
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    Layout,
    Network,
    Owner,
    Port,
    ReplicationList,
    Scope,
    vni_key,
)
from fastpath.ports import MemoryPort

N_MACS = 100_000
N_VTEPS = 1_000
N_FRAMES = 1 << 16
FIRST_MAC = 0x02DE00000000

LAYOUT = Layout(
    (Port("vm", Faces.VM, mac(0), None, network="blue"), Port("core", Faces.CORE, mac(1), mac(0x8001))),
    (Endpoint(OURS, Scope.NVE),),
    (Network("blue", VNI, None),),
)


def to_vtep(number: int) -> Egress:
    address = IPv4Address(FIRST_PEER + number)
    return Egress(1, Form.REWRITE, Owner(address=address), address, OURS, Encap.VXLAN)


def address(number: int) -> bytes:
    return (FIRST_MAC + number).to_bytes(6, "big")


class Vm:
    """A VM that sends 64 bytes to and from MACs at random; `max_macs` 0: nothing is known of any."""

    def __init__(self, max_macs: int, batch: int) -> None:
        chance = np.random.default_rng(5)
        n_far = N_MACS // 2
        to, from_ = chance.integers(0, n_far, N_FRAMES), chance.integers(n_far, N_MACS, N_FRAMES)
        self.source = MemoryPort(1 << 12, overwrite=True)
        for dst, src in zip(to.tolist(), from_.tolist(), strict=True):
            self.source.push(address(dst) + address(src) + b"\x88\xb5" + bytes(50))
        sink = MemoryPort((1 << 16) + SLACK, overwrite=True)
        flood = ReplicationList(vni_key(Scope.NVE, Encap.VXLAN, VNI), (), (to_vtep(0),))
        self.forwarder = Forwarder(
            LAYOUT, [self.source, sink], [flood], batch=batch, max_macs=max_macs, max_vteps=N_VTEPS
        )
        if max_macs:
            stations = [self.forwarder.vtep(to_vtep(number)) for number in range(N_VTEPS)]
            for number in range(N_MACS):
                station = stations[number % N_VTEPS] if number < n_far else 0
                assert self.forwarder.macs.put(VNI, address(number), station)

    def __call__(self) -> None:
        self.source.rewind()
        self.forwarder.run()

    def classify_ns(self) -> int:
        stages = self.forwarder.statistics().stages
        return next(stage.ns for stage in stages if stage.stage == "classify")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("n_macs", [0, N_MACS])
def test_classify_frames_to_and_from_many_macs(race: Race, n_macs: int, batch: int) -> None:
    ours, rival = Vm(n_macs, batch), Vm(N_MACS - n_macs, batch)
    for vm in (ours, rival):
        vm()
        counted = vm.forwarder.statistics()
        assert (counted.replicated, counted.copies_out, counted.unknown_unicast) == (N_FRAMES, N_FRAMES, 0)
        assert vm.forwarder.read_learned() == []
    rounds = race(ours, rival, per=N_FRAMES, reading=ours.classify_ns)
    assert rounds.read is not None
    parameters = {"macs": n_macs, "batch": batch, "frames": N_FRAMES}
    target = Target(90) if n_macs and batch == BATCH else None
    race.book("classify unicast", parameters, rounds.read, unit="ns/frame", target=target)
    race.book("burst of unicast, one copy", parameters, rounds.ours, unit="ns/frame", rival=rounds.rival)
