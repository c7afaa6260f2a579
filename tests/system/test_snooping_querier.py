"""Another querier on the link: a Linux bridge that asks, with a lower or a higher address than ours."""

import http.client
import socket
from ipaddress import ip_address

import pytest

from ctrl.lab.namespaces import missing
from ctrl.protocols import igmp
from ctrl.protocols.messages import Query
from tests.system.joins import GROUP, QUICK, Ear, Tor, Watch, expect_members, messages_in
from tests.system.lab import Lab, expect_once, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
TEN = list(range(1, 11))
X, Y = ("p1", "10.1.1.11", GROUP), ("p2", "10.1.2.2", GROUP)
LOWER, HIGHER = "10.1.1.0", "10.1.1.200"


@pytest.fixture
def lab():
    with Lab("querier") as made:
        yield made


class Metrics(http.client.HTTPConnection):
    """The control socket, asked as Prometheus asks."""

    def __init__(self, fastpath):
        super().__init__("box", timeout=10)
        self.path = fastpath.socket

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self.path))


def is_querier(fastpath):
    connection = Metrics(fastpath)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    wanted = 'fastpath_is_querier{family="igmp",port="p1"} '
    return next(line for line in text.splitlines() if line.startswith(wanted))[len(wanted) :] == "1.0"


def with_a_bridge_that_asks(lab, address, version):
    """Host 11 behind a bridge that is a querier, at p1; host 2 behind p2."""
    tor = Tor(lab)
    tor.switch(
        1, 11, snoops=True, mcast_querier=1, mcast_query_use_ifaddr=1, mcast_igmp_version=version,
        mcast_query_interval=100, mcast_query_response_interval=50, mcast_startup_query_interval=100,
    )  # fmt: skip
    # a bridge that asks by itself takes no other querier's port for a router's: it has to be told
    tor.switches.command("bridge", "link", "set", "dev", "up1", "mcast_router", "2")
    tor.switches.address("br1", f"{address}/24")
    tor.host(2)
    # it yields to whom it hears before it has asked under its own address
    ear = Ear(lab, tor.hosts[11])
    wait_for(lambda: version in asked_by(ear, address), "the bridge asks")
    return tor, ear


def asked_by(ear, address):
    """The versions of the queries that came from an address."""
    frames = [frame for frame in ear.frames(outgoing=False) if frame[26:30] == ip_address(address).packed]
    return {one.version for one in messages_in(frames) if isinstance(one, Query)}


@pytest.mark.parametrize("version", [2, 3])
def test_a_querier_with_a_lower_address_asks_instead_of_us_until_it_is_silent(lab, version):
    """RFC 9776 section 6.6.2. Its queries have members refreshed, and copies go on."""
    tor, _ = with_a_bridge_that_asks(lab, LOWER, version)
    fastpath = tor.run(**QUICK)
    vms = {11: tor.nve(11), 2: tor.nve(2)}
    expect_members(fastpath, X, Y)
    wait_for(lambda: not is_querier(fastpath), "the bridge is the querier")
    ear, watch = Ear(lab, tor.hosts[11]), Watch(lab, fastpath, "members")
    wait_for(lambda: len(ear.said(GROUP)) >= 3, "answers to the bridge")
    assert {query.version for query in ear.queries()} == {version}
    assert watch.rows() == []
    vms[2].send(*TEN)
    expect_once(vms, TEN, but=(2,))
    tor.switches.command("ip", "link", "set", "br1", "type", "bridge", "mcast_querier", "0")
    wait_for(lambda: is_querier(fastpath), "we ask")
    wait_for(
        lambda: any(query.interval_s == QUICK["query_interval_s"] for query in ear.queries()), "our query"
    )
    assert watch.rows() == []
    vms[2].send(*TEN)
    expect_once(vms, TEN, but=(2,))


@pytest.mark.parametrize("version", [2, 3])
def test_a_querier_with_a_higher_address_leaves_the_asking_to_us(lab, version):
    """RFC 9776 section 6.6.2. Once the bridge has heard us it is silent; so there is one that has not."""
    tor, ear = with_a_bridge_that_asks(lab, HIGHER, version)
    fastpath = tor.run(**QUICK)
    vms = {11: tor.nve(11), 2: tor.nve(2)}
    expect_members(fastpath, X, Y)
    wait_for(lambda: sum(query.robustness == 2 for query in ear.queries()) >= 2, "our queries")
    stubborn = igmp.query_frame(Query(version), bytes.fromhex("02d0000000fe"), int(ip_address(HIGHER)))
    lab.packet_socket(tor.switches, "up1").send(stubborn)
    n_asked = len(ear.queries())
    wait_for(lambda: len(ear.queries()) > n_asked, "our next query")
    assert is_querier(fastpath)
    vms[2].send(*TEN)
    expect_once(vms, TEN, but=(2,))
    tor.hosts[11].set_link("vx100", state="down")
    expect_members(fastpath, Y)
