"""How a view learns what moved: rates and times of drops, refusals and copies."""

from dataclasses import replace
from ipaddress import ip_address

from ctrl.view import Rates
from fastpath.reasons import REASONS
from fastpath.statistics import DropCount, EgressCount
from tests.unit.viewed import PEERS, view


class Clocks:
    """Both clocks, an hour and a bit apart."""

    def __init__(self):
        self.now_s = 50.0

    def rates(self):
        return Rates(lambda: self.now_s, lambda: 4000.0 + self.now_s)


def counted(frames, copies=0):
    """A view's statistics with this many drops of one reason and this many copies to the first peer."""
    whole = view().statistics
    sent = next(row for row in whole.egresses if row.egress.owner.address == PEERS[0])
    return replace(
        whole,
        drops=(DropCount(REASONS[2], frames),) if frames else (),
        egresses=(EgressCount(sent.egress, copies, 1, 0),),
    )


def test_a_rate_is_that_of_the_last_interval_and_ends_with_it():
    clocks = Clocks()
    rates = clocks.rates()
    name = REASONS[2].name
    clocks.now_s += 2
    rates.take(counted(10), {})
    assert rates.recent(counted(10), {}).drop_rates == {name: 5.0}
    clocks.now_s += 1
    rates.take(counted(13), {})
    assert rates.recent(counted(13), {}).drop_rates == {name: 3.0}
    clocks.now_s += 1
    rates.take(counted(13), {})
    assert rates.recent(counted(13), {}).drop_rates == {}


def test_what_moved_since_the_last_snapshot_moved_now():
    clocks = Clocks()
    rates = clocks.rates()
    name = REASONS[2].name
    assert rates.recent(counted(0), {}).drop_times == {}
    assert rates.recent(counted(1), {}).drop_times == {name: 4050.0}
    clocks.now_s += 1
    rates.take(counted(1, copies=2), {})
    clocks.now_s += 5
    seen = rates.recent(counted(1, copies=2), {})
    assert seen.drop_times == {name: 4051.0}
    assert seen.peer_times == {ip_address("10.0.0.2"): 51.0}
    assert rates.recent(counted(2, copies=3), {}).drop_times == {name: 4056.0}
    assert rates.recent(counted(2, copies=3), {}).peer_times == {ip_address("10.0.0.2"): 56.0}


def test_refusals_have_rates_and_times_as_drops_have():
    clocks = Clocks()
    rates = clocks.rates()
    clocks.now_s += 2
    rates.take(counted(10), {"zero_mac": 3})
    seen = rates.recent(counted(10), {"zero_mac": 3, "groups_full": 1})
    assert seen.drop_rates == {REASONS[2].name: 5.0, "zero_mac": 1.5}
    assert seen.drop_times == dict.fromkeys((REASONS[2].name, "zero_mac", "groups_full"), 4052.0)
    clocks.now_s += 1
    rates.take(counted(10), {"zero_mac": 3})
    assert rates.recent(counted(10), {"zero_mac": 3}).drop_rates == {}


def test_a_snapshot_at_the_time_of_the_last_one_is_no_interval():
    clocks = Clocks()
    rates = clocks.rates()
    rates.take(counted(5), {})
    assert rates.recent(counted(5), {}).drop_rates == {}


def test_a_counter_that_began_anew_is_no_negative_rate():
    clocks = Clocks()
    rates = clocks.rates()
    clocks.now_s += 1
    rates.take(counted(10), {})
    clocks.now_s += 1
    rates.take(counted(4), {})
    assert rates.recent(counted(4), {}).drop_rates == {}
    clocks.now_s += 1
    rates.take(counted(6), {})
    assert rates.recent(counted(6), {}).drop_rates == {REASONS[2].name: 2.0}
