"""Tenants' groups in a fabric (N13, F 3.2, F 5.1): what a VM sends to one is on the uplinks of hosts where it
was joined, on the way to their ToRs, and nowhere else; be they ours, that say what is wanted, or Linux's.

The lab is `fastpath lab up tenants`: three ToRs and a manager, twelve hosts with a VM each. Each test leaves
it as it was, but for the last two, that end the manager.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from threading import Event, Thread

import pytest

from ctrl.lab.namespaces import missing
from ctrl.lab.numbered import DISCARD, NUMBER, hearing, sending
from ctrl.protocols import igmp
from ctrl.protocols.messages import Query
from tests.system.crowd import quantile
from tests.system.fabric import attach
from tests.system.joins import BUSY_S, reports_in
from tests.system.lab import DEADLINE_S, Fastpath, Lab, wait_for
from tests.system.tenant_fabric import (
    FIRST,
    GAP_S,
    LAST_MEMBER_S,
    TenantFabric,
    expect_whole,
    is_ours,
    lost_in_one_go,
    tor_of,
)
from tests.system.tenants import stream

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
POINT = "10.0.0.110"
N_JOINS = 20


class Scene(TenantFabric):
    """The lab, and groups that nobody was in before."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._numbers = count(1)

    def group(self) -> str:
        number = FIRST + next(self._numbers)
        return ".".join(str(byte) for byte in number.to_bytes(4, "big"))

    def heard(self, sender: str, group: str, *receivers: str) -> None:
        """Assert that a stream is heard once by each of these VMs, and by no other."""
        for vm in self.vms.values():
            vm.forget()
        stream(self.vms, sender, group, range(100), *receivers)

    def only(self, sender: str, group: str, *receivers: str) -> None:
        """Assert the same, and that it comes to no other host or ToR."""
        self.narrows(sender, group, receivers)
        self.heard(sender, group, *receivers)
        came = {name for name, n in self.count().items() if n}
        assert came == {*receivers, *({tor_of(vm) for vm in receivers} - {tor_of(sender)})}


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with Lab("tf") as lab:
        yield Scene(lab)


@pytest.mark.parametrize(
    ("sender", "first", "second"), [("vm1", "vm6", "vm11"), ("vm4", "vm2", "vm7"), ("vm12", "vm3", "vm10")]
)
def test_a_stream_is_on_the_uplinks_of_those_who_joined_and_on_no_other(
    made: Scene, sender: str, first: str, second: str
) -> None:
    """N12, N13, F 3.2, F 5.1: from and to hosts of either kind, at one ToR and at others."""
    group = made.group()
    with made.vms[first].join(group):
        made.only(sender, group, first)
        with made.vms[second].join(group):
            made.only(sender, group, first, second)
    made.books()


def test_who_joins_later_is_served_within_a_moment_and_nobody_misses_a_frame(made: Scene) -> None:
    """A group more for each join; the moment is measured by `make bench ARGS="-k tenants"`."""
    groups = [made.group() for _ in range(N_JOINS)]
    later = ["vm5", "vm7", "vm10", "vm12", "vm2", "vm4"]
    took_ms: list[float] = []
    with ExitStack() as stack:
        first = stack.enter_context(made.boxes["vm8"].run(hearing, "eth0", *groups))
        sender = stack.enter_context(made.boxes["vm3"].run(sending, "eth0"))
        for group in (groups[0], groups[-1]):
            made.narrows("vm3", group, ["vm8"])
        heard(first, 0)
        sent: list[int] = []
        for n, group in enumerate(groups):
            begin, first_number = time.perf_counter(), -1
            ear = stack.enter_context(made.boxes[later[n % len(later)]].run(hearing, "eth0", group))
            while first_number < 0:
                say(sender, group, sent)
                if select.select([ear], [], [], 0.001)[0]:
                    took_ms.append(1e3 * (time.perf_counter() - begin))
                    first_number = NUMBER.unpack(ear.recv(64))[1]
                assert time.perf_counter() < begin + DEADLINE_S, (
                    f"no copy of {group} at {later[n % len(later)]}"
                )
            for _ in range(10):
                say(sender, group, sent)
            following = sent[first_number + 1 :]
            assert heard(ear, len(following)) == Counter(following), group
        assert heard(first, len(sent)) == Counter(sent)
    print(f"join to first copy: p50 {quantile(took_ms, 0.5):.1f} ms, longest {max(took_ms):.1f} ms")
    made.books()


def test_who_leaves_is_served_no_longer_than_the_last_member_s_time(made: Scene) -> None:
    """N13: two such times where the host asks its VMs first, and then is asked by its ToR."""
    group, leavers = made.group(), ("vm5", "vm12")
    with made.traffic("vm1", group, "vm8", "vm10") as data:
        sockets = [made.vms[vm].join(group) for vm in leavers]
        for vm in leavers:
            made.uplinks[vm].news()
            wait_for(made.uplinks[vm].news, f"{group} at {vm}")
        for one in sockets:
            one.close()
        ends = dict.fromkeys(leavers, begin := time.monotonic())
        while going := {vm for vm in leavers if made.uplinks[vm].news()}:
            ends |= dict.fromkeys(going, time.monotonic())
            time.sleep(GAP_S)
            assert time.monotonic() < begin + DEADLINE_S, going
        for vm, end in ends.items():
            assert end - begin < (2 if is_ours(vm) else 1) * LAST_MEMBER_S + BUSY_S, vm
    expect_whole(data)
    made.books()


def test_a_vm_that_is_a_router_gets_all_groups_and_sees_who_joins(made: Scene) -> None:
    """D18, RFC 4541 section 2.1.1: behind a host of ours, and behind one of Linux's."""
    group, routers = made.group(), ("vm9", "vm12")
    with routing(made, routers[0]), routing(made, routers[1]):
        for router in routers:
            wait_for(lambda: has_asked(made, router, "vm4"), f"a query of {router} at vm4")  # noqa: B023
        with made.vms["vm6"].join(group):
            made.only("vm1", group, "vm6", *routers)
            for router in routers:
                wait_for(lambda: group in joined_in_sight(made, router), f"{group} seen by {router}")  # noqa: B023
    with made.vms["vm6"].join(group):
        made.only("vm1", group, "vm6")
    made.books()


def test_groups_that_nobody_joined_are_for_all_or_for_nobody_and_link_local_ones_for_all(made: Scene) -> None:
    """RFC 4541 section 2.1.2."""
    everybody = {*made.vms} - {"vm7"}
    made.heard("vm7", made.group(), *everybody)
    for name, tor in made.tors.items():
        tor.reload(made.config(name, ("snoop = true", 'snoop = true\nunregistered = "drop"')))
    made.only("vm7", group := made.group())
    made.heard("vm7", "224.0.0.251", *everybody)
    with made.vms["vm2"].join(group):
        made.only("vm7", group, "vm2")
    for name, tor in made.tors.items():
        tor.reload(made.config(name))
    made.books("unregistered_group")


def test_of_a_tor_that_dies_and_starts_again_nobody_misses_more_than_its_start_takes(made: Scene) -> None:
    """Those behind others miss nothing. Who does not want it gets it until the new one had time to ask."""
    group = made.group()
    with made.traffic("vm1", group, "vm2", "vm6", "vm7", "vm11") as data:
        begin = time.monotonic()
        made.tors["tor2"].process.kill()
        made.tors["tor2"].process.wait()
        made.tors["tor2"].start()
        took_s = time.monotonic() - begin
        made.settles()
        made.narrows("vm4", group, ["vm2", "vm6", "vm7", "vm11"])
    expect_whole(data, "vm6", "vm7")
    assert max(lost_in_one_go(data, "vm6", "vm7").values()) < took_s + 0.1
    made.books("unregistered_group")


def test_without_a_manager_all_goes_on_and_who_joins_at_a_tor_that_gets_the_group_is_served(
    made: Scene,
) -> None:
    group, manager = made.group(), made.daemons["manager"].process
    with made.traffic("vm1", group, "vm2", "vm7", "vm9") as data:
        manager.kill()
        manager.wait()
        for vm in ("vm6", "vm8", "vm11"):
            with made.vms[vm].join(group):
                made.uplinks[vm].news()
                wait_for(made.uplinks[vm].news, f"{group} at {vm}")
    expect_whole(data)
    made.books("unregistered_group")


def test_a_point_copies_to_the_tors_where_somebody_joined_alone(made: Scene) -> None:
    """F 3.2: the manager tells it what tenants want where."""
    box = made.lab.box("point1")
    attach(made.boxes["core"], box, "point1", POINT)
    config = f'[[port]]\nname = "core"\nfaces = "core"\n[replicator]\naddress = "{POINT}"\n'
    config += 'manager = ["10.0.0.100:9470"]\nplaintext = true\nstate = ""\n'
    made.daemons["point1"] = Fastpath(made.lab, box, config, waits=False)
    manager = made.daemons["manager"]
    if manager.process.poll() is None:
        manager.end()
    manager.configure(made.config("manager", ('mode = "mesh"', 'mode = "point"')))
    manager.start()
    for tor in made.tors:
        made.sends_to(tor, POINT)
    for sender, receivers in (("vm1", ["vm6"]), ("vm4", ["vm7", "vm10"])):
        group = made.group()
        with ExitStack() as stack:
            for vm in receivers:
                stack.enter_context(made.vms[vm].join(group))
            made.only(sender, group, *receivers)
    made.books("unregistered_group", "no_neighbour")


def say(sender: socket.socket, group: str, sent: list[int]) -> None:
    """Send the next number, and note that."""
    sender.sendto(NUMBER.pack(0, len(sent)), (group, DISCARD))
    sent.append(len(sent))


def heard(ear: socket.socket, n: int) -> Counter[int]:
    """The numbers that come: so many, and what still follows."""
    found: list[int] = []
    while select.select([ear], [], [], 0.05 if len(found) >= n else DEADLINE_S)[0]:
        found.append(NUMBER.unpack(ear.recv(64))[1])
    return Counter(found)


@contextmanager
def routing(made: Scene, vm: str) -> Iterator[None]:
    """Have a VM ask as a multicast router does, every second."""
    tenant, stopped = made.vms[vm], Event()
    box = tenant.box
    query = Query(3, response_s=0.4, robustness=2, interval_s=1.0)
    mac = bytes.fromhex(box.mac("eth0").replace(":", ""))
    source = int.from_bytes(bytes(int(part) for part in tenant.address.split(".")), "big")
    frame = igmp.query_frame(query, mac, source)
    sender = made.lab.packet_socket(box, "eth0")

    def ask() -> None:
        sender.send(frame)
        while not stopped.wait(1.0):
            sender.send(frame)

    thread = Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def has_asked(made: Scene, router: str, vm: str) -> bool:
    """Whether a VM has heard a query of the router's."""
    source = socket.inet_aton(made.vms[router].address)
    return any(frame[26:30] == source for frame in made.vms[vm].control())


def joined_in_sight(made: Scene, vm: str) -> set[str]:
    """The groups of the reports that a VM has seen of others."""
    reports = reports_in(made.vms[vm].ear.frames(outgoing=False))
    numbers = {record.group for report in reports for record in report.records}
    return {".".join(map(str, number.to_bytes(4, "big"))) for number in numbers}
