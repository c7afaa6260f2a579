"""Lists that change while the kernel makes their copies: a frame goes to one whole list, and who stays misses
nothing."""

import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import pytest

from ctrl.lab.namespaces import connect, missing
from fastpath import bpf
from fastpath.clones import TURNS
from tests.system.counting import NUMBERS
from tests.system.fan import vm_frame
from tests.system.lab import Lab, wait_for
from tests.system.load import Track, sent, start, whole
from tests.system.spread import Spread, list_of, peer
from tests.system.wires import GROUP, MTU, NVE, wired

WHY_NOT = missing() or bpf.available()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
FAN_OUT, RELOADS, EVERY_S = 16, 20, 0.05
N_LONG = TURNS + 44
"""Receivers of a list."""
SHIFT = 100
"""How many of them the other list has not."""
ROUND, BATCH, CHANGES = 32, 4, 10


def test_twenty_reloads_that_change_the_list_lose_and_double_nothing_for_those_who_stay():
    with Lab("clones") as lab:
        track = Track(lab, FAN_OUT)
        connect(track.box, "extra", track.sink, "extra", mtu=MTU)
        track.box.address("extra", "10.7.0.254/16")
        for i in range(10):
            track.box.neighbour("extra", f"10.7.0.{i}", track.sink.mac("extra"))

        def config(n):
            """Some come and go, behind another port."""
            member = f'[[device.member]]\ngroup = "{GROUP}"\nport = "extra"\nnve = "10.7.0.{{}}"\n'
            port = '[[port]]\nname = "extra"\nfaces = "nve"\n'
            return track.config(
                "".join(member.format(i) for i in range(n % 3, n % 3 + n % 7 + 2)), ports=port
            )

        fastpath = start(lab, track)
        reader, sender = track.reader(), None
        fastpath.reload(config(0))
        sender = track.sender(4_000, NUMBERS)
        wait_for(lambda: fastpath.status()["received"] > 0, "the load is on")
        for n in range(1, RELOADS + 1):
            until = time.monotonic() + EVERY_S
            assert "reloaded file=" in fastpath.reload(config(n))
            (group,) = fastpath.show("groups")
            assert len(group["local"]) == FAN_OUT + n % 7 + 2
            time.sleep(max(0.0, until - time.monotonic()))
        assert sender.poll() is None
        sender.terminate()
        count = sent(sender)["offered"]
        report = reader.report(count)
        now = fastpath.settled()
        assert (now["received"], fastpath.drops()) == (count, {})
        assert whole(report, count * FAN_OUT), report
        ports = {name: fastpath.port(name) for name in ("out", "extra")}
        assert (
            ports["out"]["copies_out"] == now["copies_out"] - ports["extra"]["copies_out"] == FAN_OUT * count
        )
        assert all(port["transmit"].startswith("clones") for port in ports.values())
        assert fastpath.show("runtime")[0]["clone_sends"] > 0


def long_list(first):
    """Receivers from a place on; the last of them behind another port."""
    return list_of(
        *(
            peer(1 if n < first + TURNS + 10 else 2, f"10.8.{n // 200}.{n % 200 + 1}")
            for n in range(first, first + N_LONG)
        )
    )


@contextmanager
def exchanged(forwarder, lists):
    """Publish one list after the other, again and again."""
    over = threading.Event()

    def exchange():
        while not over.is_set():
            for one in lists:
                forwarder.publish([one])

    with ThreadPoolExecutor(1) as thread:
        exchanging = thread.submit(exchange)
        try:
            yield
        finally:
            over.set()
        exchanging.result()


@pytest.mark.parametrize("trains", [True, False], ids=["trains", "single"])
def test_no_frame_goes_to_a_mixture_of_the_list_before_and_the_list_after(trains):
    """Of lists that take several messages, behind ports that share a device, exchanged while bursts go on."""
    with wired() as wire:
        lists = [long_list(first) for first in (0, SHIFT)]
        wanted = [{str(egress.address) for egress in one.local} for one in lists]
        spread = Spread(wire, 2, lists[0], trains=trains, batch=BATCH)
        forwarder = spread.forwarder
        ways: list[int] = []
        n_frames = 0
        while sum(one != other for one, other in pairwise(ways)) < CHANGES:
            numbers = range(n_frames, n_frames + ROUND)
            n_frames += ROUND
            assert n_frames < 100 * ROUND, "the lists are never exchanged between two frames"
            wire.send(*(vm_frame(number, NVE, sport=0xC000 + number // BATCH % 2) for number in numbers))
            with exchanged(forwarder, lists):
                while forwarder.statistics().received < n_frames:
                    forwarder.run()
            seen: defaultdict[int, Counter[str]] = defaultdict(Counter)
            for (receiver, number), times in spread.got(ROUND * N_LONG).items():
                seen[number][receiver] = times
            assert {max(seen[number].values()) for number in numbers} == {1}, "more than once"
            for number in numbers:
                off = [len(one ^ set(seen[number])) for one in wanted]
                assert 0 in off, f"frame {number}: so many receivers more or less than in either list: {off}"
                ways.append(off.index(0))
        counted = forwarder.statistics()
        assert (counted.copies_out, counted.copies_dropped) == (n_frames * N_LONG, 0)
        assert (counted.train_copies > 0) == trains
        assert spread.devices[0].sends >= 2 * (counted.bursts if trains else n_frames)
