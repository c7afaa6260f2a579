"""Sources that hosts want or block, and the bounds of a port: programs on the hosts join."""

import shutil
import subprocess
from ipaddress import ip_address

import pytest

from ctrl.lab.namespaces import missing
from tests.captures_io import pcap
from tests.system.joins import (
    GROUP,
    OTHER_GROUP,
    QUICK,
    Ear,
    Tor,
    Watch,
    expect_members,
    member_socket,
    members,
    send_vxlan,
)
from tests.system.lab import Lab, numbered, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
MAC = bytes.fromhex("02d000000001")
ONE, TWO = "10.1.1.2", "10.1.2.2"


@pytest.fixture
def lab():
    with Lab("sources") as made:
        yield made


@pytest.fixture
def tor(lab):
    """Two hosts that send, and three that want something."""
    made = Tor(lab)
    for number in range(1, 6):
        made.host(number)
    return made


def flood(lab, tor, numbers):
    """Have hosts 1 and 2 send: even numbers are those of host 1, odd ones of host 2."""
    for number in numbers:
        send_vxlan(lab, tor.hosts[1 + number % 2], GROUP, 100, numbered(number, MAC))


def test_a_host_that_names_sources_gets_what_these_nves_send_and_nothing_else(lab, tor):
    """(S,G) by the outer source. The state comes of IS_IN and of BLOCK as Linux says them (D1, W5)."""
    fastpath = tor.run(last_member_query_interval_s=0.2)
    ears = {n: Ear(lab, tor.hosts[n]) for n in (3, 4, 5)}
    wants = member_socket(lab, tor.hosts[3], GROUP, ONE)
    member_socket(lab, tor.hosts[4], GROUP, ONE, blocks=True)
    member_socket(lab, tor.hosts[5], GROUP)

    def state():
        return {
            row["port"]: (row["mode"], row["sources"], row["blocked"]) for row in fastpath.show("members")
        }

    settled = {"p3": ("include", [ONE], []), "p4": ("exclude", [], [ONE]), "p5": ("exclude", [], [])}
    wait_for(lambda: state() == settled, "what each wants")
    flood(lab, tor, range(1, 11))
    wait_for(lambda: len(ears[5].numbers()) == 10, "all of it at p5")
    wait_for(lambda: len(ears[3].numbers()) + len(ears[4].numbers()) >= 10, "the rest")
    even, odd = [2, 4, 6, 8, 10], [1, 3, 5, 7, 9]
    assert {n: sorted(ear.numbers()) for n, ear in ears.items()} == {3: even, 4: odd, 5: sorted(even + odd)}
    assert fastpath.drops().get("no_receiver", 0) == 0
    wants.close()
    expect_members(fastpath, ("p4", "10.1.4.2", GROUP), ("p5", "10.1.5.2", GROUP))


def test_a_source_more_or_less_is_a_change_of_the_member_and_of_what_it_gets(lab, tor):
    """D3: the second information does not move with it. D5: the source that is left is asked for by name."""
    fastpath = tor.run(last_member_query_interval_s=0.2)
    first = member_socket(lab, tor.hosts[3], GROUP, ONE)
    expect_members(fastpath, ("p3", "10.1.3.2", GROUP))
    watch, groups, ear = (
        Watch(lab, fastpath, "members"),
        Watch(lab, fastpath, "groups"),
        Ear(lab, tor.hosts[3]),
    )
    member_socket(lab, tor.hosts[3], GROUP, TWO)
    wait_for(lambda: len(watch.rows()) == 1, "a second source")
    flood(lab, tor, (1, 2))
    wait_for(lambda: sorted(ear.numbers()) == [1, 2], "both")
    first.close()
    wait_for(lambda: len(watch.rows()) == 2, "the first source is gone")
    flood(lab, tor, (4, 3))
    wait_for(lambda: sorted(ear.numbers()) == [1, 2, 3], "the second one alone")
    assert [(row["event"], row["sources"]) for row in watch.rows()] == [
        ("changed", [ONE, TWO]),
        ("changed", [TWO]),
    ]
    assert groups.rows() == []
    asked = [query.sources for query in ear.queries() if query.group]
    assert len(asked) >= 2, "robustness; the host says it twice, too"
    assert set(asked) == {(int(ip_address(ONE)),)}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark missing: PEERS=1 scripts/setup-system.sh")
def test_queries_of_every_kind_are_sound_in_the_eyes_of_tshark(lab, tor):
    """W5: Router Alert, TTL 1, ToS 0xc0; the sums; and the times in their codes."""
    ear = Ear(lab, tor.hosts[3])
    tor.run(query_interval_s=300, last_member_query_interval_s=0.2)
    wants = member_socket(lab, tor.hosts[3], GROUP, ONE)
    whole = member_socket(lab, tor.hosts[3], OTHER_GROUP)
    wait_for(lambda: len(ear.said(GROUP, OTHER_GROUP)) >= 2, "the joins")
    for one in (wants, whole):
        one.close()
    wait_for(lambda: sum(query.group > 0 for query in ear.queries()) >= 4, "what the leaves are asked about")
    file = lab.directory / "queries.pcap"
    file.write_bytes(pcap([(0, frame) for frame in ear.frames(outgoing=False)]))
    fields = ("ip.ttl", "ip.dsfield", "ip.opt.ra", "igmp.checksum.status", "igmp.max_resp", "igmp.qrv",
              "igmp.qqic", "ip.dst", "igmp.maddr", "igmp.saddr")  # fmt: skip
    words = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(file), "-Y", "igmp", "-T", "fields", "-E", "separator=;", *words],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert set(done.stdout.splitlines()) == {
        "1;0xc0;0;1;10;2;146;224.0.0.1;0.0.0.0;",  # code 146 is 288 s, the most that is not beyond 300
        f"1;0xc0;0;1;2;2;146;{GROUP};{GROUP};{ONE}",
        f"1;0xc0;0;1;2;2;146;{OTHER_GROUP};{OTHER_GROUP};",
    }


def test_a_group_beyond_the_bound_of_a_port_is_refused_and_counted_and_no_other_port_suffers(lab, tor):
    """The bound is exact, whoever was there before is served on, and a leave makes room."""
    fastpath = tor.run(max_groups_per_port=5, **QUICK)
    joined = {f"239.5.5.{n}": member_socket(lab, tor.hosts[3], f"239.5.5.{n}") for n in range(1, 8)}

    def groups(port):
        return {group for place, _, group in members(fastpath) if place == port}

    wait_for(lambda: fastpath.drops().get("port_groups_full", 0) >= 4, "the refusal of two, again and again")
    has = groups("p3")
    assert len(has) == 5
    (row,) = fastpath.show("drops", reason="port_groups_full")
    assert row["unit"] == "record"
    lacks = set(joined) - has
    away = [member_socket(lab, tor.hosts[4], group) for group in lacks]
    ears = {n: Ear(lab, tor.hosts[n]) for n in (3, 4)}
    wait_for(lambda: groups("p4") == lacks, "another port's members")
    for group in lacks:
        send_vxlan(lab, tor.hosts[1], group, 100, numbered(7, MAC))
    send_vxlan(lab, tor.hosts[1], min(has), 100, numbered(8, MAC))
    wait_for(lambda: ears[4].numbers() == [7] * len(away), "the copies there")
    wait_for(lambda: ears[3].numbers() == [8], "and those of the members here")
    joined[min(has)].close()
    wait_for(lambda: groups("p3") - has, "one of those who are refused, after the next general query")
    assert len(groups("p3")) == 5
