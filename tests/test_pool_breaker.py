from __future__ import annotations

from tanuki_async._pool.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Circuit


def opened(now: float = 0.0) -> Circuit:
    circuit = Circuit()
    for number in range(1, FAILURES + 1):
        circuit.failed(number, "HTTP 500", now)
    return circuit


def test_failures_in_a_row_open_it() -> None:
    circuit = Circuit()
    told = [circuit.failed(number, "HTTP 500", 0.0) for number in range(1, FAILURES + 2)]
    assert told == [False] * (FAILURES - 1) + [True, False]
    assert circuit.state() == "open"
    assert circuit.wait(0.0) == FIRST_PAUSE


def test_an_answer_between_keeps_it_closed() -> None:
    circuit = Circuit()
    for number in range(1, 4 * FAILURES):
        circuit.failed(number, "x", 0.0)
        if number % (FAILURES - 1) == 0:
            assert not circuit.answered()
    assert circuit.state() == "closed"
    assert circuit.wait(0.0) == 0


def test_one_probe_goes_per_pause_and_pauses_double() -> None:
    circuit, now, number = opened(), 0.0, 100
    pauses = list[float]()
    for _ in range(7):
        pauses.append(circuit.wait(now))
        now += pauses[-1]
        number += 1
        circuit.start(number, now)
        assert circuit.state() == "probing"
        assert circuit.wait(now) > 0
        assert circuit.failed(number, "HTTP 502", now)
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE]
    assert circuit.last == "HTTP 502"


def test_an_answer_closes_it() -> None:
    circuit = opened()
    circuit.start(99, 1.0)
    assert circuit.answered()
    assert (circuit.state(), circuit.failures, circuit.wait(1.0)) == ("closed", 0, 0)


def test_a_probe_that_hangs_or_is_given_up_stops_nobody() -> None:
    circuit = opened()
    circuit.start(99, 1.0)
    assert circuit.wait(1.0 + FIRST_PAUSE) == 0
    circuit.ended(99)
    assert circuit.state() == "open"
    circuit.ended(5)
    circuit.start(100, 2.0)
    circuit.ended(99)
    assert circuit.state() == "probing"
