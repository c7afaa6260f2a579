"""SIGHUP under load: what stays loses no copy, what changed is so at once, what is bad changes nothing."""

import time

import pytest

from ctrl import nftables
from ctrl.lab.namespaces import connect, missing
from tests import frames as f
from tests.system.counting import GROUP, NUMBERS, SIZE
from tests.system.lab import ETH_P_ALL, Lab, wait_for
from tests.system.load import DEVICE, Track, sent, start, whole

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
FAN_OUT = 16
OTHER = "239.1.1.200"
RELOADED = "reloaded file="


@pytest.fixture
def lab():
    with Lab("reload") as made:
        yield made


@pytest.fixture
def track(lab):
    return Track(lab, FAN_OUT)


def members(n, group=OTHER):
    """A list that is not loaded: n receivers, and a network of its own."""
    return f'[[network]]\nname = "other"\nvni = {1000 + n}\ngroup = "{group}"\n' + "".join(
        f'[[device.member]]\ngroup = "{group}"\nport = "out"\nnve = "10.8.1.{i}"\n' for i in range(1, n + 1)
    )


def blue():
    return f'[[network]]\nname = "blue"\nvni = 100\ngroup = "{GROUP}"\n'


def port(name):
    return f'[[port]]\nname = "{name}"\nfaces = "nve"\n'


def others(n):
    """What differs from reload to reload: a list, its network, and a port that comes and goes."""
    extra = port("extra") if n % 2 else ""
    return {"more": blue() + members(1 + n % 7), "ports": extra}


def load_through(lab, track, n_reloads, rate, every_s):
    connect(track.box, "extra", track.sink, "extra")
    fastpath = start(lab, track, **others(0))
    reader = track.reader()
    sender = track.sender(rate, NUMBERS)
    wait_for(lambda: fastpath.status()["received"] > 0, "the load is on")
    for n in range(1, n_reloads + 1):
        until = time.monotonic() + every_s
        said = fastpath.reload(track.config(**others(n)))
        assert RELOADED in said
        assert f"ports={3 if n % 2 else 2} lists=2" in said
        (other,) = fastpath.show("groups", group=OTHER)
        assert len(other["local"]) == 1 + n % 7
        time.sleep(max(0.0, until - time.monotonic()))
    assert sender.poll() is None
    sender.terminate()
    count = sent(sender)["offered"]
    report = reader.report(count)
    assert fastpath.settled()["received"] == count
    assert fastpath.drops() == {}
    assert whole(report, count * FAN_OUT), report


def test_reloads_under_load_lose_no_copy_of_a_list_that_did_not_change(lab, track):
    load_through(lab, track, n_reloads=4, rate=4_000, every_s=0.2)


@pytest.mark.slow
def test_twenty_reloads_in_a_minute_under_load_lose_no_copy_of_a_list_that_did_not_change(lab, track):
    load_through(lab, track, n_reloads=20, rate=12_000, every_s=3.0)


def test_the_networks_of_a_group_change_with_a_reload_that_adds_a_port_too(lab, track):
    """Lists carry the networks that may use them: exchanging the ports must not make them forget that."""
    connect(track.box, "extra", track.sink, "extra")
    fastpath = start(lab, track, more=blue())
    foreign = blue().replace("vni = 100", "vni = 101")
    fastpath.reload(track.config(more=foreign, ports=port("extra")))
    sent(track.sender(1_000, 20))
    wait_for(lambda: fastpath.drops() == {"wrong_group": 20}, "frames of the network that was are refused")
    fastpath.reload(track.config(more=blue()))
    reader = track.reader()
    sent(track.sender(1_000, 20))
    assert whole(reader.report(20), 20 * FAN_OUT)


def has_table(name):
    """Whether nf_tables has a table of this name, in the namespace of the calling thread."""
    asking = nftables.NftSocket()
    try:
        asking.ask(nftables.get_table(name))
    except FileNotFoundError:
        return False
    else:
        return True
    finally:
        asking.close()


def test_a_bad_file_is_refused_with_a_line_and_the_old_config_goes_on(lab, track):
    fastpath = start(lab, track, more=blue() + members(2))
    before = [fastpath.show(name) for name in ("config", "groups", "networks")]
    for bad, complaint in (
        ("[[port]\n", "error:"),
        (
            track.config(more='[[device.member]]\ngroup = "10.1.1.1"\nport = "out"\n'),
            "device.member[16].group",
        ),
        (track.config(more='[[device.member]]\ngroup = "239.7.7.7"\nport = "nowhere"\n'), "nowhere"),
        (track.config(ports='[[port]]\nname = "tape"\nkind = "pcap"\nfaces = "nve"\n'), 'kind = "pcap"'),
    ):
        said = fastpath.reload(bad)
        assert "reload refused, the old config stays" in said
        assert complaint in said
        assert [fastpath.show(name) for name in ("config", "groups", "networks")] == before
    reader = track.reader()
    sent(track.sender(2_000, 500))
    assert whole(reader.report(500), 500 * FAN_OUT)
    assert RELOADED in fastpath.reload(track.config(more=blue() + members(3)))
    assert len(fastpath.show("groups", group=OTHER)[0]["local"]) == 3


def test_keys_that_take_a_restart_are_refused_by_name_together_with_all_else(lab, track):
    fastpath = start(lab, track)
    for dataplane, name in (
        ("workers = 2", "dataplane.workers"),
        ("batch = 32", "dataplane.batch"),
        ("trains = false", "dataplane.trains"),
        ("clones = false", "dataplane.clones"),
        ("ring_frames = 1024", "dataplane.ring_frames"),
    ):
        said = fastpath.reload(track.config(dataplane=dataplane, more=members(3)))
        assert f"{name} changed, which takes a restart" in said
        assert fastpath.show("groups", group=OTHER) == []
    said = fastpath.reload(track.config().replace("[dataplane]", 'http = "127.0.0.1:9999"\n[dataplane]'))
    assert "reload refused" in said


def test_a_port_that_a_reload_adds_forwards_and_one_that_it_removes_is_left_to_the_kernel(lab, track):
    connect(track.box, "extra", track.sink, "extra")
    track.box.address("extra", "10.6.9.1/24")
    fastpath = start(lab, track)
    listener = lab.packet_socket(track.sink, "extra", ETH_P_ALL)
    listener.settimeout(5)

    def rules():
        return track.box.run(has_table, "fastpath-extra")

    assert not rules()
    member = f'[[device.member]]\ngroup = "{GROUP}"\nport = "extra"\n'
    assert "ports=3" in fastpath.reload(track.config(ports=port("extra"), more=member))
    assert rules()
    assert fastpath.port("extra")["state"] == "up"
    sent(track.sender(1_000, 10))
    wait_for(lambda: len(listener.recv(65536)) >= 50 + SIZE, "a copy, among our queries")
    assert "ports=2" in fastpath.reload(track.config())
    assert not rules()
    assert fastpath.show("ports", name="extra") == []
    copies = fastpath.settled()["copies_out"]
    sent(track.sender(1_000, 10))
    wait_for(lambda: fastpath.status()["copies_out"] == copies + 10 * FAN_OUT, "copies without the port")
    assert "ports=3" in fastpath.reload(track.config(ports=port("extra"), more=member))
    sent(track.sender(1_000, 10))
    wait_for(lambda: fastpath.status()["copies_out"] == copies + 10 * (2 * FAN_OUT + 1), "copies with it")


def test_another_address_of_the_device_is_received_and_the_old_one_is_not_any_more(lab, track):
    fastpath = start(lab, track, more=blue())
    wire = lab.packet_socket(track.nve, "up")

    def is_received(address):
        before = fastpath.settled()["received"]
        packet = f.vxlan_packet(f.tenant(), "10.1.1.9", address, 100)
        wire.send(f.ethernet(packet, f.IPV4, dst=bytes.fromhex(track.box.mac("p1").replace(":", ""))))
        wire.send(f.ethernet(f.vxlan_packet(f.tenant(), "10.1.1.9", GROUP, 100), f.IPV4))
        wait_for(lambda: fastpath.status()["received"] > before, "the frame to the group came")
        return fastpath.settled()["received"] == before + 2

    assert is_received(DEVICE)
    assert not is_received("10.9.0.7")
    assert RELOADED in fastpath.reload(track.config(more=blue()).replace(DEVICE, "10.9.0.7"))
    assert is_received("10.9.0.7")
    assert not is_received(DEVICE)
