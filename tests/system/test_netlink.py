"""Links and next hops are followed in a real kernel: two namespaces, one or two veth pairs between them."""

import asyncio
import ctypes
import logging
import os
import re
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ctrl.netlink import NextHop, View, Watch
from ctrl.netlink.kernel import Netlink

HERE, THERE = f"fpD-a{os.getpid()}", f"fpD-b{os.getpid()}"
NEAR, NEAR6, FAR = ip_address("10.7.0.2"), ip_address("fd07::2"), ip_address("10.99.0.1")
MAC, OTHER_MAC = bytes.fromhex("02fad0000002"), bytes.fromhex("02fad0000012")
SECOND_MAC = bytes.fromhex("02fad0000022")
DEADLINE_S = 20


def ip(namespace: str, *words: str) -> str:
    argv = ["ip", "-n", namespace, *" ".join(words).split()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def here(*words: str) -> str:
    return ip(HERE, *words)


def there(*words: str) -> str:
    return ip(THERE, *words)


def pair(near: str, far: str, number: int, far_mac: bytes) -> None:
    here(f"link add {near} type veth peer name {far} netns {THERE}")
    there(f"link set {far} address {far_mac.hex(':')}")
    for namespace, device, host in ((HERE, near, 1), (THERE, far, 2)):
        ip(namespace, f"address add 10.{number}.0.{host}/24 dev {device}")
        ip(namespace, f"address add fd0{number}::{host}/64 dev {device} nodad")
        ip(namespace, f"link set {device} up")


@pytest.fixture
def world() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    made = []
    try:
        for name in (HERE, THERE):
            done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"needs network namespaces: {done.stderr.strip()}")
            made.append(name)
            ip(name, "link set lo up")
        pair("p1", "q1", 7, MAC)
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open("rb") as file:
        if libc.setns(file.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def give_up_capabilities() -> None:
    """Keep no capability in this thread; file descriptors and the namespace stay."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def live(scenario: Callable[[], Awaitable[None]], *, without_capabilities: bool = False) -> None:
    """Run a scenario in a thread of its own, whose namespace and capabilities end with it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            enter(HERE)
            if without_capabilities:
                give_up_capabilities()
            asyncio.run(asyncio.wait_for(scenario(), 3 * DEADLINE_S))
        except BaseException as failure:  # noqa: BLE001 - raised again in the thread of the test
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


class Eyes:
    """Views as they come, until one is as it should be."""

    def __init__(self, watch: Watch) -> None:
        self.views = watch.changes()

    async def see(self, wanted: Callable[[View], Any]) -> View:
        last = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for view in self.views:
                    last = view
                    if wanted(view):
                        return view
        except TimeoutError:
            pass
        raise AssertionError(f"never seen; last was {last}")


def hop(view: View, address: object = NEAR) -> NextHop:
    return view.hops[address]  # type: ignore[index]


def log_lines(caplog, beginning: str) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.name == "fastpath.netlink"]
    return [message for message in messages if message.startswith(beginning)]


def quick_timers(version: str) -> None:
    """Have the kernel doubt a neighbour after a second instead of half a minute."""
    timers = {
        "base_reachable_time_ms": 500,
        "delay_first_probe_time": 1,
        "retrans_time_ms": 100,
        "interval_probe_time_ms": 200,
    }
    for name, value in timers.items():
        argv = f"ip netns exec {HERE} sysctl -qw net.{version}.neigh.p1.{name}={value}".split()
        subprocess.run(argv, check=True, timeout=30)


def test_a_neighbour_that_nobody_knows_is_asked_for_and_found_and_forgotten_at_the_end(world, caplog) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        assert "10.7.0.2" not in here("neigh show")
        async with Watch(["p1"], [NEAR, NEAR6]) as watch:
            assert hop(watch.view) == NextHop("p1", None, None)
            await Eyes(watch).see(lambda view: hop(view).mac == MAC and hop(view, NEAR6).mac == MAC)
            assert watch.asked >= 2
            assert "managed" in here("neigh show 10.7.0.2 dev p1")
            assert "managed" in here("neigh show fd07::2 dev p1")
        assert "10.7.0.2" not in here("neigh show")
        assert "fd07::2" not in here("-6 neigh show")

    live(scenario)
    found = "neighbour resolved device=p1 address=10.7.0.2 mac=02:fa:d0:00:00:02 was=none"
    assert log_lines(caplog, "neighbour resolved device=p1 address=10") == [found]


@pytest.mark.parametrize("address", [NEAR, NEAR6])
def test_a_peer_that_announces_another_mac_is_followed(world, address) -> None:
    for name in ("ipv4.conf.q1.arp_notify", "ipv6.conf.q1.ndisc_notify"):
        argv = f"ip netns exec {THERE} sysctl -qw net.{name}=1".split()
        subprocess.run(argv, check=True, timeout=30)

    async def scenario() -> None:
        async with Watch(["p1"], [address]) as watch:
            eyes = Eyes(watch)
            await eyes.see(lambda view: hop(view, address).mac == MAC)
            there(f"link set q1 address {OTHER_MAC.hex(':')}")
            await eyes.see(lambda view: hop(view, address).mac == OTHER_MAC)

    live(scenario)


@pytest.mark.parametrize("address", [NEAR, NEAR6])
def test_a_peer_that_says_nothing_of_its_other_mac_is_found_out(world, address) -> None:
    quick_timers(f"ipv{address.version}")

    async def scenario() -> None:
        async with Watch(["p1"], [address]) as watch:
            eyes = Eyes(watch)
            await eyes.see(lambda view: hop(view, address).mac == MAC)
            there(f"link set q1 address {OTHER_MAC.hex(':')}")
            await eyes.see(lambda view: hop(view, address).mac == OTHER_MAC)

    live(scenario)


@pytest.mark.parametrize("address", [NEAR, NEAR6])
def test_a_peer_that_vanished_is_unresolved_and_found_again_when_it_is_back(world, address, caplog) -> None:
    caplog.set_level(logging.INFO)
    quick_timers(f"ipv{address.version}")
    prefix = 24 if address.version == 4 else 64

    async def scenario() -> None:
        async with Watch(["p1"], [address]) as watch:
            eyes = Eyes(watch)
            await eyes.see(lambda view: hop(view, address).mac == MAC)
            asked = watch.asked
            there(f"address delete {address}/{prefix} dev q1")
            view = await eyes.see(lambda view: hop(view, address).mac is None)
            assert hop(view, address).device == "p1"
            there(f"address add {address}/{prefix} dev q1" + " nodad" * (address.version == 6))
            await eyes.see(lambda view: hop(view, address).mac == MAC)
            assert watch.asked > asked

    live(scenario)
    assert len(log_lines(caplog, "neighbour lost")) == 1


def test_a_route_that_moves_to_another_device_and_gateway_takes_its_next_hop_along(world, caplog) -> None:
    caplog.set_level(logging.INFO)
    pair("p2", "q2", 8, SECOND_MAC)
    far6 = ip_address("fd99::1")
    via = ip_address("10.8.0.2"), ip_address("fd08::2")

    async def scenario() -> None:
        here("route add 10.99.0.0/24 via 10.7.0.2")
        here("route add fd99::/64 via fd07::2")
        async with Watch(["p1", "p2"], [FAR, far6]) as watch:
            eyes = Eyes(watch)
            await eyes.see(
                lambda view: (
                    hop(view, FAR) == NextHop("p1", MAC, NEAR)
                    and hop(view, far6) == NextHop("p1", MAC, NEAR6)
                )
            )
            here("route replace 10.99.0.0/24 via 10.8.0.2")
            here("route replace fd99::/64 via fd08::2")
            await eyes.see(
                lambda view: (
                    hop(view, FAR) == NextHop("p2", SECOND_MAC, via[0])
                    and hop(view, far6) == NextHop("p2", SECOND_MAC, via[1])
                )
            )
            assert "managed" not in here("neigh show 10.7.0.2 dev p1")
            here("route delete 10.99.0.0/24")
            await eyes.see(lambda view: hop(view, FAR) == NextHop(None))
            here("route add 10.99.0.0/24 via inet6 fd07::2 dev p1")
            await eyes.see(lambda view: hop(view, FAR) == NextHop("p1", MAC, NEAR6))
            here("rule add to 10.99.0.1 prohibit")
            await eyes.see(lambda view: hop(view, FAR) == NextHop(None))

    live(scenario)
    moved = "route moved addresses=1 first=10.99.0.1 device=p2 "
    came = "gateway=10.8.0.2 was_device=p1 was_gateway=10.7.0.2"
    assert log_lines(caplog, moved) == [moved + came]


def test_a_link_is_followed_down_and_up_and_so_is_its_mtu(world, caplog) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with Watch(["p1", "missing"], [NEAR]) as watch:
            eyes = Eyes(watch)
            view = await eyes.see(lambda view: hop(view).mac == MAC)
            assert set(view.links) == {"p1"}
            link = view.links["p1"]
            assert link.is_up
            assert link.mtu == 1500
            assert link.driver == "veth"
            assert {"10.7.0.1/24", "fd07::1/64"} <= {str(address) for address in link.addresses}
            there("link set q1 down")
            await eyes.see(lambda view: not view.links["p1"].is_up and hop(view).mac is None)
            there("link set q1 up")
            await eyes.see(lambda view: view.links["p1"].is_up and hop(view).mac == MAC)
            here("link set p1 down")
            await eyes.see(lambda view: not view.links["p1"].is_up and hop(view).device is None)
            here("link set p1 up mtu 1400")
            view = await eyes.see(lambda view: view.links["p1"].is_up and hop(view).mac == MAC)
            assert view.links["p1"].mtu == 1400

    live(scenario)
    assert len(log_lines(caplog, "link down")) == 2
    assert log_lines(caplog, "link mtu") == ["link mtu changed device=p1 mtu=1400 was=1500"]


def test_a_device_made_again_under_its_name_is_the_new_one(world) -> None:
    async def scenario() -> None:
        async with Watch(["p1"], [NEAR]) as watch:
            eyes = Eyes(watch)
            view = await eyes.see(lambda view: hop(view).mac == MAC)
            index = view.links["p1"].index
            here("link delete p1")
            await eyes.see(lambda view: not view.links and hop(view).device is None)
            pair("p1", "q1", 7, OTHER_MAC)
            view = await eyes.see(lambda view: "p1" in view.links and hop(view).mac == OTHER_MAC)
            assert view.links["p1"].index != index

    live(scenario)


def test_addresses_without_a_way_and_addresses_of_the_box_and_groups_are_told_apart(world) -> None:
    nowhere, refused, own = ip_address("192.0.2.1"), ip_address("10.66.0.1"), ip_address("10.7.0.1")
    nowhere6, refused6, own6 = ip_address("2001:db8::1"), ip_address("fd66::1"), ip_address("fd07::1")
    group, group6 = ip_address("239.129.1.2"), ip_address("ff15::1:2")
    asked_about = [nowhere, refused, own, nowhere6, refused6, own6, group, group6]

    async def scenario() -> None:
        here("route add blackhole 10.66.0.0/16")
        here("route add unreachable fd66::/16")
        here("route add 239.0.0.0/8 dev p1")
        async with Watch(["p1"], asked_about) as watch:
            hops = watch.view.hops
            assert {hops[address] for address in (nowhere, refused, nowhere6, refused6)} == {NextHop(None)}
            assert hops[own] == hops[own6] == NextHop("lo")
            assert hops[group] == NextHop("p1", bytes.fromhex("01005e010102"))
            assert hops[group6] == NextHop("p1", bytes.fromhex("333300010002"))
            assert watch.asked == 0

    live(scenario)


def test_after_events_were_lost_everything_is_read_again(world, caplog) -> None:
    async def scenario() -> None:
        async with Watch(["p1"], [NEAR], kernel=lambda: Netlink(listen_bytes=2048)) as watch:
            eyes = Eyes(watch)
            await eyes.see(lambda view: hop(view).mac == MAC)
            for host in range(10, 30):  # the loop stands still meanwhile, and the buffer holds but a few
                here(f"neigh add 10.7.0.{host} lladdr {MAC.hex(':')} dev p1")
            here("link set p1 mtu 1300")
            here(f"neigh replace 10.7.0.2 lladdr {OTHER_MAC.hex(':')} nud permanent dev p1")
            await eyes.see(lambda view: view.links["p1"].mtu == 1300 and hop(view).mac == OTHER_MAC)
            assert watch.overruns >= 1

    live(scenario)
    assert log_lines(caplog, "netlink events lost")


def test_neighbours_that_others_made_stay(world) -> None:
    fixed, kept = ip_address("10.7.0.8"), ip_address("10.7.0.9")

    async def scenario() -> None:
        here(f"neigh add {fixed} lladdr {SECOND_MAC.hex(':')} nud permanent dev p1")
        here(f"neigh add {kept} managed dev p1")
        async with Watch(["p1"], [fixed, kept, NEAR]) as watch:
            view = await Eyes(watch).see(lambda view: hop(view).mac == MAC)
            assert hop(view, fixed).mac == SECOND_MAC
            here(f"neigh replace {NEAR} lladdr {OTHER_MAC.hex(':')} nud permanent dev p1")
        after = here("neigh show dev p1")
        assert re.search(r"10\.7\.0\.8 .*PERMANENT", after)
        assert re.search(r"10\.7\.0\.2 .*PERMANENT", after)  # made his own meanwhile
        assert re.search(r"10\.7\.0\.9 .*managed", after)

    live(scenario)


def test_what_is_no_longer_asked_for_is_no_longer_kept_resolved(world) -> None:
    async def scenario() -> None:
        async with Watch(["p1"], [NEAR]) as watch:
            eyes = Eyes(watch)
            await eyes.see(lambda view: hop(view).mac == MAC)
            await watch.want(["p1"], [NEAR6])
            assert set(watch.view.hops) == {NEAR6}
            assert "10.7.0.2" not in here("neigh show")
            await eyes.see(lambda view: set(view.hops) == {NEAR6} and hop(view, NEAR6).mac == MAC)

    live(scenario)


def test_what_an_instance_that_was_killed_left_behind_is_removed_by_the_next(world) -> None:
    async def scenario() -> None:
        killed = Watch(["p1"], [NEAR])
        await killed.__aenter__()
        asyncio.get_running_loop().remove_reader(killed._kernel.fileno())
        killed._kernel.close()
        assert "managed" in here("neigh show 10.7.0.2")
        async with Watch(["p1"], [NEAR6]):
            assert "10.7.0.2" not in here("neigh show")

    live(scenario)


def test_without_the_capability_next_hops_are_followed_but_not_asked_for(world, caplog) -> None:
    async def scenario() -> None:
        async with Watch(["p1"], [NEAR, NEAR6]) as watch:
            eyes = Eyes(watch)
            await eyes.see(lambda view: hop(view).device == "p1")
            assert watch.asked == 0
            learned.set()
            await eyes.see(lambda view: hop(view).mac == MAC)

    learned = threading.Event()

    def others() -> None:
        learned.wait(DEADLINE_S)
        here(f"neigh replace 10.7.0.2 lladdr {MAC.hex(':')} dev p1")

    helper = threading.Thread(target=others)
    helper.start()
    live(scenario, without_capabilities=True)
    helper.join()
    warnings = log_lines(caplog, "neighbours refused")
    assert len(warnings) == 1
    assert "CAP_NET_ADMIN" in warnings[0]
