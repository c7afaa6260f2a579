"""Messages of many ports that wait for control: turns, and a bound that costs none but the port with most."""

from ctrl.daemon.turns import BESIDE_BYTES, Turns


def taken(turns):
    found = []
    while turns:
        found.append(turns.take())
    return found


def test_a_message_waits_for_one_of_each_other_port_and_not_for_all():
    turns: Turns[int] = Turns()
    for n in range(100):
        turns.put(1, b"a%d" % n)
    turns.put(2, b"b0")
    turns.put(3, b"c0")
    assert taken(turns)[:4] == [(1, b"a0"), (2, b"b0"), (3, b"c0"), (1, b"a1")]


def test_each_port_s_messages_stay_in_order():
    turns: Turns[int] = Turns()
    for n in range(10):
        turns.put(n % 2, bytes([n]))
    found = taken(turns)
    for port in (0, 1):
        assert [message[0] for one, message in found if one == port] == list(range(port, 10, 2))


def test_what_is_too_much_is_taken_from_the_port_with_most_bytes_and_from_no_other():
    turns: Turns[int] = Turns(10 * (100 + BESIDE_BYTES))
    assert all(turns.put(1, bytes(100)) for _ in range(10))
    assert not turns.put(1, bytes(100))
    assert [turns.put(2, bytes(100)) for _ in range(4)] == [False] * 4
    found = [port for port, _ in taken(turns)]
    assert (found.count(1), found.count(2)) == (6, 4)
    assert all(turns.put(1, bytes(100)) for _ in range(10)), "what was taken is no longer counted"


def test_one_message_that_is_too_long_is_not_kept():
    turns: Turns[int] = Turns(1000)
    assert not turns.put(1, bytes(1000))
    assert not turns
    assert turns.put(1, bytes(10))
