from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.decode import arrays

CUTS = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.lists(st.text(max_size=5), max_size=8), CUTS)
def test_the_bytes_of_each_text_are_counted_in_slices_too(texts: list[str], cut: tuple[int, int]) -> None:
    first, count = cut
    some = pa.array(texts, pa.string()).slice(first, count)
    assert arrays.byte_lengths(some).tolist() == [len(text.encode()) for text in texts[first : first + count]]


@given(st.lists(st.none() | st.booleans(), max_size=8), st.lists(st.none() | st.integers(0, 9), max_size=8), CUTS)
def test_nulls_are_false_and_zero_in_slices_too(
    flags: list[bool | None], numbers: list[int | None], cut: tuple[int, int]
) -> None:
    first, count = cut
    known = arrays.bools(pa.array(flags, pa.bool_()).slice(first, count))
    assert known.tolist() == [bool(flag) for flag in flags[first : first + count]]
    for kind in (pa.int32(), pa.int64()):
        found = arrays.int64s(pa.array(numbers, kind).slice(first, count))
        assert found.tolist() == [number or 0 for number in numbers[first : first + count]]
