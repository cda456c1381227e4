"""The rule by which a soak passes sees a leak, and isn't taken in by merges."""

from __future__ import annotations

import math

import numpy as np

from tests.soak.verdict import Curve, judge

TIMES = [3.0 * number for number in range(300)]


def memory(values: list[float]) -> Curve:
    return judge("memory", TIMES, values, share=0.1, least=96)


def swinging(time_s: float) -> float:
    """Up and down by 400 MiB with a merge every 40 s or so."""
    return 200 * math.sin(time_s / 7) + float(np.random.default_rng(int(time_s)).normal(0, 50))


def test_a_plateau_that_swings_is_flat() -> None:
    assert memory([1500 * (1 - math.exp(-time_s / 60)) + swinging(time_s) for time_s in TIMES]).flat


def test_a_slow_leak_is_seen_through_the_swings() -> None:
    leaking = memory([1500 + time_s + swinging(time_s) for time_s in TIMES])
    assert not leaking.flat
    assert leaking.gain > 400


def test_a_leak_that_is_all_there_is_is_seen_too() -> None:
    assert not memory([1000 + time_s for time_s in TIMES]).flat
