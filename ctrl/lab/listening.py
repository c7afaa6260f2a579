"""What a VM of a lab says to a group of its own, and hears there: numbered datagrams, told once a second."""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import closing

from ctrl.lab.numbered import DISCARD, NUMBER, Heard, hearing, sending

REPORT_S = 1.0
_SIZE = 2048


def send(device: str, group: str, rate: float, count: int) -> Iterator[int]:
    """Send numbered datagrams at a rate, `count` or (0) for ever; say once a second how many are out."""
    who, begin, due_s, number = secrets.randbits(64), time.monotonic(), REPORT_S, 0
    with closing(sending(device)) as sender:
        while not count or number < count:
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            sender.sendto(NUMBER.pack(who, number), (group, DISCARD))
            number += 1
            if time.monotonic() - begin >= due_s:
                due_s += REPORT_S
                yield number
        yield number


def hear(device: str, group: str, seconds: float) -> Iterator[str]:
    """Be in a group for some seconds or (0) for ever; a sentence for each sender's first datagram, and once a
    second, if there is more, one for what it sent since then."""
    heard: dict[tuple[str, int], Heard] = {}
    with closing(hearing(device, group)) as ear:
        begin, due_s, told = time.monotonic(), REPORT_S, list[str]()
        yield f"joined {group} on {device}"
        while (past_s := time.monotonic() - begin) < (seconds or past_s + 1):
            if past_s >= due_s:
                due_s += REPORT_S
                before, told = told, _accounts(heard)
                yield from (one for one in told if one not in before)
            if select.select([ear], [], [], max(0.0, begin + due_s - time.monotonic()))[0]:
                data, (sender, _) = ear.recvfrom(_SIZE)
                if len(data) == NUMBER.size:
                    who, number = NUMBER.unpack(data)
                    if (sender, who) not in heard:
                        heard[sender, who] = Heard(time.time())
                        yield f"{sender}: first heard after {1e3 * (time.monotonic() - begin):.1f} ms"
                    heard[sender, who].take(number, time.time())
    yield from (one for one in _accounts(heard) if one not in told)


def _accounts(heard: Mapping[tuple[str, int], Heard]) -> list[str]:
    told = []
    for (sender, _), one in heard.items():
        n_sent = max(one.numbers) - min(one.numbers) + 1
        told.append(f"{sender}: {n_sent} sent, {n_sent - len(one.numbers)} lost, {one.doubled} doubled")
    return told
