"""Profiles add up whatever the cuts, and sketches tell what sets would, within what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.domain.graph_profiles import SKETCH_SIZE, Hashes, Profile, Sketch, smallest


def hashes_of(numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Hashes:
    """Numbers spread over 64 bits, each to another one."""
    found = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ (found >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return found ^ (found >> np.uint64(29))


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    values = draw(st.dictionaries(st.integers(1, 2**64 - 1), st.text(max_size=9), max_size=12))
    numbers = draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=2))
    lengths = sorted(draw(st.lists(st.integers(0, 99), min_size=2, max_size=2)))
    count = len(values)
    return Profile(
        draw(st.integers(0, 99)),
        count,
        draw(st.integers(0, 9)),
        lengths[0] if count else 0,
        lengths[1] if count else 0,
        min(numbers, default=None),
        max(numbers, default=None),
        draw(st.dictionaries(st.sampled_from(["email", "text"]), st.integers(1, 9), max_size=2)),
        Sketch.of(np.array(list(values), np.uint64)),
        smallest(values.items()),
    )


@given(st.lists(profiles(), min_size=1, max_size=5), st.randoms())
def test_parts_in_any_order_make_the_same_whole(parts: list[Profile], chance: object) -> None:
    def together(some: list[Profile]) -> Profile:
        whole = Profile()
        for one in some:
            whole = whole.merged(one)
        return whole

    whole = together(parts)
    shuffled = list(parts)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    middle = len(parts) // 2
    assert together(shuffled) == whole
    assert together(shuffled[:middle]).merged(together(shuffled[middle:])) == whole
    assert together(shuffled).encode() == whole.encode()


@given(profiles())
def test_a_profile_is_read_as_it_was_written(profile: Profile) -> None:
    assert Profile.decode(profile.encode()) == profile


def test_a_profile_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="another version"):
        Profile.decode(b"\x09")


def test_distinct_values_are_counted_exactly_while_they_are_few() -> None:
    for count in (0, 1, 2, SKETCH_SIZE - 1):
        numbers = np.arange(count)
        assert Sketch.of(hashes_of(np.concatenate([numbers, numbers]))).distinct == count


def test_distinct_values_are_estimated_within_five_deviations() -> None:
    for count in (5_000, 100_000, 1_000_000):
        found = Sketch.of(hashes_of(np.arange(count) + 17)).distinct
        assert abs(found - count) / count < 5 / math.sqrt(SKETCH_SIZE)


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 1000), (500, 1500)), ((0, 100_000), (50_000, 150_000)), ((0, 200_000), (0, 20_000)), ((0, 50), (0, 90_000))],
)
def test_similarity_and_shared_values_are_those_of_the_sets(first: tuple[int, int], second: tuple[int, int]) -> None:
    a, b = (np.arange(*bounds) for bounds in (first, second))
    shared, union = len(np.intersect1d(a, b)), len(np.union1d(a, b))
    one, other = Sketch.of(hashes_of(a)), Sketch.of(hashes_of(b))
    similarity = shared / union
    error = 5 * math.sqrt(similarity * (1 - similarity) / SKETCH_SIZE)
    if one.is_exact and other.is_exact:
        assert one.similarity(other) == pytest.approx(similarity)
        assert one.shared(other) == pytest.approx(shared)
    assert abs(one.similarity(other) - similarity) <= error
    assert abs(one.shared(other) - shared) <= (error + 5 * similarity / math.sqrt(SKETCH_SIZE)) * union
    assert one.similarity(other) == other.similarity(one)
