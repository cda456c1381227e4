"""The breaker: who is refused while something can't be reached."""

from __future__ import annotations

from heimdall_server.storage.postgres.breaker import Breaker


def test_one_caller_tries_and_the_others_are_refused_until_it_succeeds() -> None:
    now_s = 100.0
    breaker = Breaker(clock_s=lambda: now_s)
    assert breaker.admit()
    assert not breaker.is_open
    breaker.failed()
    assert (breaker.is_open, breaker.admit()) == (True, False)
    now_s += 0.6
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.undecided()
    assert breaker.admit()
    breaker.failed()
    now_s += 0.4
    assert not breaker.admit()  # twice as long now, half of it at random
    now_s += 0.7
    assert breaker.admit()
    breaker.succeeded()
    assert [breaker.admit(), breaker.admit()] == [True, True]


def test_it_never_waits_longer_than_some_seconds() -> None:
    now_s = 0.0
    breaker = Breaker(clock_s=lambda: now_s)
    for _ in range(40):
        breaker.failed()
    now_s = 8.1
    assert breaker.admit()
