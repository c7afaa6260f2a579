"""FRR's bfdd as the other end of a multihop session: as the passive and as the active one."""

import signal
import tempfile
import time
from pathlib import Path

import pytest

from ctrl.lab import namespaces
from ctrl.lab.namespaces import Lab, connect
from ctrl.protocols.bfd import State
from tests.system import frr
from tests.system.bfd_ends import End
from tests.system.lab import wait_for

WHY = namespaces.missing() or frr.missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))
SLACK_S = 2.0
"""What a busy machine may add."""
ADDRESSES = {"ipv4": ("10.0.0.1", "10.0.0.2"), "ipv6": ("fd00::1", "fd00::2")}


@pytest.fixture
def boxes():
    """Our box and FRR's, and a folder that FRR's user may use."""
    with Lab("frr") as lab, tempfile.TemporaryDirectory(prefix="fp-frr-") as folder:
        ours, theirs = lab.namespace("ours"), lab.namespace("theirs")
        connect(ours, "eth0", theirs, "eth0")
        for own, other in ADDRESSES.values():
            ours.address("eth0", f"{own}/{64 if ':' in own else 24}")
            theirs.address("eth0", f"{other}/{64 if ':' in other else 24}")
        yield ours, theirs, Path(folder)
        lab.__exit__()  # its programs end before their folder goes


def bfdd(boxes, own, other, *words):
    lines = "".join(f"  {word}\n" for word in ("receive-interval 100", "transmit-interval 100", *words))
    config = f"bfd\n peer {own} multihop local-address {other}\n{lines} !\n"
    return frr.Frr(boxes[1], boxes[2], config)


def is_at(theirs, status):
    return lambda: theirs.peers()[0]["status"] == status


@pytest.mark.parametrize("family", ADDRESSES)
def test_our_prober_finds_a_passive_frr_up_down_when_killed_and_each_sees_the_other_s_timers(boxes, family):
    own, other = ADDRESSES[family]
    theirs = bfdd(boxes, own, other, "passive-mode", "detect-multiplier 4")
    end = End(boxes[0], "device", own, other, interval_s=0.15)
    assert end.read()[1:] == [other, True]
    wait_for(lambda: theirs.peers()[0]["remote-transmit-interval"] == 150, "FRR takes our interval")
    [row] = end.ask()["rows"]
    assert (row["send_s"], row["receive_s"]) == (0.15, 0.15)
    assert row["detection_s"] == pytest.approx(4 * 0.15)
    [peer] = theirs.peers()
    assert (peer["status"], peer["diagnostic"]) == ("up", "ok")
    assert (peer["remote-receive-interval"], peer["remote-transmit-interval"]) == (150, 150)
    assert (peer["remote-detect-multiplier"], peer["multihop"]) == (3, True)
    killed_s = time.monotonic()
    theirs.bfdd.kill()
    when_s, address, is_up = end.read()
    assert (address, is_up) == (other, False)
    assert when_s - killed_s < 0.6 + SLACK_S


def test_our_responder_answers_an_active_frr_and_is_down_there_when_it_ends(boxes):
    own, other = ADDRESSES["ipv4"]
    end = End(boxes[0], "point", own, other)
    theirs = bfdd(boxes, own, other)

    wait_for(is_at(theirs, "up"), "FRR is up")
    wait_for(lambda: end.state() == State.UP, "we are up, too", 1)
    end.process.terminate()
    wait_for(is_at(theirs, "down"), "FRR is down", 2)
    [peer] = theirs.peers()
    assert peer["remote-diagnostic"] == "administratively down"


def test_frr_finds_our_responder_dead_by_silence_and_up_again(boxes):
    own, other = ADDRESSES["ipv4"]
    end = End(boxes[0], "point", own, other)
    theirs = bfdd(boxes, own, other)
    wait_for(is_at(theirs, "up"), "FRR is up", 5)
    end.process.send_signal(signal.SIGSTOP)
    wait_for(is_at(theirs, "down"), "FRR is down", 3)
    assert theirs.peers()[0]["diagnostic"] == "control detection time expired"
    end.process.send_signal(signal.SIGCONT)
    wait_for(is_at(theirs, "up"), "FRR is up", 4)


def test_a_shut_down_frr_is_down_at_once_and_its_changed_timers_are_taken_by_poll(boxes):
    own, other = ADDRESSES["ipv4"]
    theirs = bfdd(boxes, own, other, "passive-mode")
    end = End(boxes[0], "device", own, other)
    assert end.read()[1:] == [other, True]
    peer = f"peer {own} multihop local-address {other}"
    theirs.ask("configure terminal", "bfd", peer, "receive-interval 400", "transmit-interval 900")
    wait_for(lambda: end.ask()["rows"][0]["send_s"] == 0.4, "FRR's new interval is heeded", 3)
    [row] = end.ask()["rows"]
    assert (row["receive_s"], row["n_downs"]) == (0.9, 0)
    shut_s = time.monotonic()
    theirs.ask("configure terminal", "bfd", peer, "shutdown")
    when_s, _, is_up = end.read()
    assert not is_up
    assert row["detection_s"] > SLACK_S > when_s - shut_s, "not by silence"
