from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.decode.attributes import MapBuilder
from heimdall_server.decode.civil import Stamps
from heimdall_server.decode.columns import Attributes, assemble
from heimdall_server.decode.mapping import split, target_of
from heimdall_server.decode.severity import from_numbers, from_words
from heimdall_server.domain.decoding import Decoded
from heimdall_server.domain.records import ATTRIBUTE_COUNT_MAX, TimeFlag
from tests.support.decoding import CONTEXT, attributes, check, context


def built(count: int, **parts: Any) -> pa.RecordBatch:
    return check(Decoded(assemble(count, CONTEXT, **({"core": {}} | parts))))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_records_without_any_field_are_complete(count: int) -> None:
    batch = built(count)
    assert batch.num_rows == count
    assert batch["time_flags"].to_pylist() == [TimeFlag.MISSING] * count


def test_a_column_that_is_no_core_column_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="colour"):
        assemble(1, CONTEXT, core={"colour": pa.array(["red"])})


def test_variants_of_a_field_are_taken_row_by_row() -> None:
    batch = built(
        3, core={"body": [pa.array(["a", None, None]), pa.array([None, 2.5, None]), pa.array([None, None, True])]}
    )
    assert batch["body"].to_pylist() == ["a", "2.5", "true"]


def test_stamps_already_read_are_settled_and_their_text_is_kept() -> None:
    stamps = Stamps(np.array([5, 0], np.int64), np.array([True, False]), np.array([2, 0], np.uint8))
    batch = built(2, core={"time": pa.array(["five", "never"])}, stamps=stamps)
    assert batch["time"].cast(pa.int64()).to_pylist() == [5, CONTEXT.observed_time_ns]
    assert batch["time_flags"].to_pylist() == [TimeFlag.INFERRED_YEAR, TimeFlag.MISSING]
    assert attributes(batch) == [{}, {"time.original": "never"}]


def test_an_observed_time_of_the_source_stands_in_for_a_missing_time() -> None:
    seen = pa.array([1_700_000_000_000_000_000, None, CONTEXT.observed_time_ns + 1], pa.timestamp("ns", "UTC"))
    batch = built(3, core={"observed_time": seen})
    expected = [1_700_000_000_000_000_000, CONTEXT.observed_time_ns, CONTEXT.observed_time_ns]
    assert batch["observed_time"].cast(pa.int64()).to_pylist() == expected
    assert batch["time"].cast(pa.int64()).to_pylist() == expected


def test_of_level_and_severity_the_first_counts_and_the_other_stays() -> None:
    batch = built(2, core={"level": pa.array(["warn", None]), "severity": pa.array([17, 17])})
    assert batch["severity"].to_pylist() == [13, 17]
    assert attributes(batch) == [{"severity": 17.0}, {}]


def test_flags_that_do_not_fit_stay_as_attributes() -> None:
    batch = built(4, core={"flags": [pa.array([1, -1, 2**32, None]), pa.array([None, None, None, "f"])]})
    assert batch["flags"].to_pylist() == [1, 0, 0, 0]
    assert attributes(batch) == [{}, {"flags": -1.0}, {"flags": float(2**32)}, {"flags": "f"}]


def test_ids_come_as_hex_or_bytes() -> None:
    raw = bytes(range(8))
    batch = built(
        3, core={"span_id": [pa.array([raw, None, b"abc"], pa.binary()), pa.array([None, raw.hex().upper(), None])]}
    )
    assert batch["span_id"].to_pylist() == [raw, raw, bytes(8)]
    assert attributes(batch) == [{}, {}, {"span_id": b"abc".hex()}]


def test_record_numbers_count_the_bad_rows_between() -> None:
    dump = context(dump="d", first_record_number=10)
    batch = assemble(2, dump, core={}, rows=np.array([0, 4]))
    assert batch["record_number"].to_pylist() == [10, 14]
    assert built(2)["record_number"].to_pylist() == [0, 0]


def test_limits_count_all_three_maps_and_resources_apart() -> None:
    columns = [(f"s{n}", pa.array(["v"])) for n in range(100)] + [(f"n{n}", pa.array([n])) for n in range(100)]
    batch = built(1, attributes=columns, resource=columns)
    assert [len(batch[name][0].as_py()) for name in ("attributes", "attributes_number")] == [100, 28]
    assert [len(batch[name][0].as_py()) for name in ("resource", "resource_number")] == [100, 28]
    overflow = json.loads(batch["overflow"][0].as_py())
    assert overflow == {f"n{n}": n for n in range(28, 100)} | {f"resource.n{n}": n for n in range(28, 100)}


def test_only_the_record_over_a_limit_is_cut() -> None:
    wide = [(f"k{n}", pa.array([None, n, None], pa.int64())) for n in range(ATTRIBUTE_COUNT_MAX + 1)]
    batch = built(3, attributes=[*wide, ("own", pa.array(["a", None, "c"]))])
    assert attributes(batch)[0] == {"own": "a"}
    assert attributes(batch)[2] == {"own": "c"}
    assert batch["overflow"].to_pylist() == ["", '{"k128":128.0}', ""]


def test_maps_columns_and_pairs_come_together() -> None:
    pairs = pa.array([[("a", "1")], [], [("b", "2"), ("c", "3")]], pa.map_(pa.string(), pa.string()))
    loose = (np.array([0, 2]), pa.array(["p", "q"]).dictionary_encode(), pa.array(["x", "y"]))
    given_ = Attributes(columns=[("k", pa.array(["u", "v", None]))], maps=[pairs], pairs=[loose])
    assert attributes(built(3, attributes=given_)) == [
        {"a": "1", "k": "u", "p": "x"},
        {"k": "v"},
        {"b": "2", "c": "3", "q": "y"},
    ]


@pytest.mark.parametrize(
    ("name", "target"),
    [("ts", "time"), ("@timestamp", "time"), ("Level", "severity"), ("MESSAGE", "body"), ("service.name", "service"), ("traceId", "trace_id"), ("other", None)],
)  # fmt: skip
def test_names_are_mapped_whatever_their_case(name: str, target: str | None) -> None:
    assert target_of(name) == target


def test_the_exact_spelling_comes_before_another_case() -> None:
    core, left = split({"Message": [pa.array(["upper", "only"])], "message": [pa.array(["lower", None])]})
    assert built(2, core=core, attributes=left)["body"].to_pylist() == ["lower", "only"]
    assert [(name, part.to_pylist()) for name, part in left] == [("Message", ["upper", None])]


def test_severity_words_and_scales() -> None:
    words = ["INFO", "warning", " Err ", "NOTICE", "fatal", "trace", "DEBUG3", "E", "emerg", "none", "", None]
    assert from_words(pa.array(words)).tolist() == [9, 13, 17, 10, 21, 1, 7, 17, 24, 0, 0, 0]
    numbers = pa.array([10, 20, 30, 40, 50, 60, 9, 24, 25, 0, -1, None])
    assert from_numbers(numbers, ladder=True).tolist() == [1, 5, 9, 13, 17, 21, 9, 24, 0, 0, 0, 0]
    assert from_numbers(numbers, ladder=False).tolist() == [10, 20, 9, 13, 17, 21, 9, 24, 0, 0, 0, 0]


VALUES = st.one_of(
    st.lists(st.none() | st.text(max_size=5), min_size=6, max_size=6).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.none() | st.booleans(), min_size=6, max_size=6).map(lambda v: pa.array(v, pa.bool_())),
    st.lists(st.none() | st.integers(-(2**62), 2**62), min_size=6, max_size=6).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.none() | st.floats(allow_nan=False), min_size=6, max_size=6).map(lambda v: pa.array(v, pa.float64())),
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=8))
def test_maps_hold_exactly_what_the_columns_hold(columns: dict[str, pa.Array]) -> None:
    builder = MapBuilder(6)
    for key, values in columns.items():
        builder.add(key, values)
    maps = builder.build()
    for row in range(6):
        found: dict[str, Any] = {}
        for part in (maps.strings, maps.numbers, maps.bools):
            part.validate(full=True)
            found |= dict(part[row].as_py())
        expected = {key: values[row].as_py() for key, values in columns.items() if values[row].is_valid}
        assert found == {key: _held(value) for key, value in expected.items()}


def _held(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return float(value) if abs(value) <= 2**53 else str(value)
