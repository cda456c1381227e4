"""Which field of one dump is which of another."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.domain.graph_dumps import (
    DumpField,
    FieldMatch,
    best_pairs,
    counterparts,
    estimated_matches,
    exact_matches,
)
from heimdall_server.domain.graph_profiles import Profile, Sketch
from tests.support.graphs import make_id
from tests.unit.graph.test_graph_profiles import hashes_of


def field(name: str, values: range) -> DumpField:
    sketch = Sketch.of(hashes_of(np.arange(values.start, values.stop)))
    return DumpField(make_id(f"{name}/{values}"), name, Profile(value_count=len(values), sketch=sketch))


scores = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 20), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


@given(scores)
def test_the_best_pairs_are_those_that_trying_all_finds(table: list[list[int]]) -> None:
    matrix = np.array(table, np.float64)
    pairs = best_pairs(matrix)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(matrix[pair] > 0 for pair in pairs)
    narrow = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    best = max(
        sum(narrow[row, column] for row, column in enumerate(columns))
        for columns in permutations(range(narrow.shape[1]), narrow.shape[0])
    )
    assert sum(matrix[pair] for pair in pairs) == best


def test_hundreds_of_fields_are_paired() -> None:
    order = np.random.default_rng(4).permutation(150)
    matrix = np.random.default_rng(5).random((150, 150)) / 2
    matrix[np.arange(150), order] += 1
    assert best_pairs(matrix) == list(enumerate(order.tolist()))
    assert best_pairs(np.zeros((0, 3))) == []


def test_fields_are_counterparts_by_what_they_share_and_not_by_name() -> None:
    a = [field("mail", range(1000)), field("name", range(5000, 6000)), field("country", range(9000, 9008))]
    b = [field("email_address", range(200, 1200)), field("login", range(5500, 6500)), field("mail", range(7000, 7500))]
    found = counterparts(estimated_matches(a, b))
    assert [(one.a.name, one.b.name, one.shared, one.is_counterpart) for one in found] == [
        ("mail", "email_address", 800, True),
        ("name", "login", 500, True),
    ]
    assert found[0].containment_a == found[0].containment_b == pytest.approx(0.8)
    assert found[0].similarity == pytest.approx(800 / 1200)
    assert found[0].similarity_error == 0


def test_a_field_has_one_counterpart_and_a_name_in_common_decides_between_equals() -> None:
    a = [field("mail", range(1000))]
    b = [field("backup", range(1000)), field("mail", range(1000))]
    found = counterparts(estimated_matches(a, b))
    assert [(one.b.name, one.is_counterpart) for one in found] == [("mail", True), ("backup", False)]


@pytest.mark.parametrize("ends", [(3000, 4000), (100_000, 150_000), (40_000, 200_000)])
def test_estimates_are_near_what_is_counted(ends: tuple[int, int]) -> None:
    a, b = [field("a", range(ends[0]))], [field("b", range(ends[0] // 2, ends[1]))]
    shared = ends[0] - ends[0] // 2
    exact = exact_matches(a, b, {a[0].id: ends[0], b[0].id: ends[1] - ends[0] // 2}, {(a[0].id, b[0].id): shared})[0]
    found = estimated_matches(a, b)[0]
    assert isinstance(found, FieldMatch)
    assert found.similarity_error > 0
    assert abs(found.similarity - exact.similarity) <= 5 * found.similarity_error
    assert abs(found.containment_a - exact.containment_a) < 0.15
    assert abs(found.containment_b - exact.containment_b) < 0.15


def test_dumps_without_fields_share_nothing() -> None:
    assert counterparts(estimated_matches([], [field("a", range(3))])) == []
