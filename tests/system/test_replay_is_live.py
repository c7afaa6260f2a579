"""What a capture with joins comes to in replay, it comes to on live interfaces: copy for copy.

The ports of the live box have the MACs that replay gives them, so that copies are equal byte for byte. The
frames go in one after the other; before data, the live box is given time to have the members that replay has
then by the capture's clock.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ctrl.config import load
from ctrl.lab.namespaces import Namespace, connect
from ctrl.table import Row
from tests.replaying import CAPTURES, EXAMPLES, Stepped, checked, is_query
from tests.system.joins import is_control
from tests.system.lab import (
    ETH_P_ALL,
    QUIET_S,
    SO_RCVBUFFORCE,
    Fastpath,
    Lab,
    finished,
    has_carrier,
    wait_for,
)

CAPTURE, CONFIG = CAPTURES / "joins.pcapng", EXAMPLES / "joins.toml"
OUTGOING = 4  # PACKET_OUTGOING of <linux/if_packet.h>
Member = tuple[object, ...]


class Far:
    """The far end of a port: puts frames on the wire, and keeps those that come."""

    def __init__(self, lab: Lab, box: Namespace, device: str) -> None:
        self._socket = lab.packet_socket(box, device, ETH_P_ALL)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self._copies: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def copies(self, quiet_s: float = 0.0) -> list[bytes]:
        """All frames that came, without queries and what the box's own kernel asks for (ARP)."""
        while select.select([self._socket], [], [], quiet_s)[0]:
            frame, about = self._socket.recvfrom(65536)
            if about[2] != OUTGOING and frame[12:14] != b"\x08\x06" and not is_query(frame):
                self._copies.append(frame)
        return self._copies


def told(rows: list[Row]) -> list[Member]:
    """Members, without what differs from one moment to the next."""
    return [
        (row["port"], row["nve"], row["mac"], row["group"], row["mode"], tuple(row["sources"]))
        for row in rows
    ]


def expect_told(fastpath: Fastpath, rows: list[Row]) -> None:
    """Wait until the live box has the members of replay."""
    wanted = told(rows)
    wait_for(lambda: told(fastpath.show("members")) == wanted, f"members {wanted}")


def has_received(fastpath: Fastpath, n: int) -> bool:
    return bool(fastpath.status()["received"] >= n)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("replay") as made:
        yield made


@pytest.fixture
def live(lab: Lab) -> tuple[Fastpath, dict[str, Far]]:
    config = load(CONFIG)
    box, hosts = lab.box("tor"), lab.box("far")
    for place, port in enumerate(config.ports, 1):
        connect(box, port.name, hosts, port.name, mtu=1600)
        box.set_link(port.name, address=f"02:fa:57:00:00:{place:02x}")
        hosts.set_link(port.name, address=f"02:fa:57:ff:00:{place:02x}")
        for address in port.addresses:
            if address.version == 4:
                box.address(port.name, str(address))
    box.command("ip", "neigh", "add", "10.0.0.2", "lladdr", f"02:fa:57:ff:00:{len(config.ports):02x}",
                "dev", "core")  # fmt: skip
    for port in config.ports:
        finished(box, port.name)
        wait_for(partial(has_carrier, box, port.name), f"carrier of {port.name}")
    far = {port.name: Far(lab, hosts, port.name) for port in config.ports}
    text = CONFIG.read_text().replace('node = "tor1"', "[dataplane]\ntrains = false")
    return Fastpath(lab, box, text), far


def test_the_same_traffic_gives_the_same_copies_and_the_same_end_state_live_as_in_replay(
    live: tuple[Fastpath, dict[str, Far]], tmp_path: Path
) -> None:
    """D1, D4, D5, D9: joins, leaves with and without an objection, of IGMPv2, v3 and MLD, of one source."""
    fastpath, far = live
    replayed = checked(load(CONFIG), CAPTURE, tmp_path / "out.pcapng")
    oracle = Stepped(load(CONFIG))
    in_replay = {name: [data for port, data in replayed.copies if port == name] for name in far}
    before: tuple[int, bool] | None = None
    for number, (in_port, frame) in enumerate(replayed.arrivals):
        kind = in_port, is_control(frame.data)
        if kind != before:  # of several ports, none waits for another
            wait_for(partial(has_received, fastpath, number), f"frame {number} came")
        oracle.pass_time(frame.time_ns)
        if not is_control(frame.data):
            expect_told(fastpath, oracle.members())
        oracle.take(in_port, frame)
        far[oracle.names[in_port]].send(frame.data)
        before = kind
    expect_told(fastpath, replayed.done.members)
    assert {name: one.copies(QUIET_S) for name, one in far.items()} == in_replay
    status = fastpath.settled()
    counted = replayed.done.statistics
    assert (status["received"], status["copies_out"]) == (counted.received, counted.copies_out)
    assert fastpath.drops() == replayed.reasons() | dict(replayed.done.refused)
    assert sum(map(len, in_replay.values())) > 100
