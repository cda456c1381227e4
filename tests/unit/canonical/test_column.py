from __future__ import annotations

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.addresses import ip
from heimdall_server.canonical.column import NO_VALUE, Canonical, Change, Refused, Sure, canonicalise, stable


def test_rows_keep_their_places_among_repeats_and_nulls() -> None:
    column = ip(pa.array(["1.2.3.4", None, "x", "::FFFF:102:304", "1.2.3.4", "x", None, " 1.2.3.4"]))
    assert column.values.to_pylist() == ["1.2.3.4", None, None, "1.2.3.4", "1.2.3.4", None, None, "1.2.3.4"]
    assert column.changes.to_pylist() == [0, 0, 0, Change.MAPPED, 0, 0, 0, Change.TRIMMED]
    assert column.confidence.to_pylist() == [1, 0, 0, 1, 1, 0, 0, 1]
    reasons = column.reasons.to_pylist()
    assert reasons[1] == reasons[6] == NO_VALUE
    assert reasons[2] == reasons[5] == "it is not an IP address"
    assert [reasons[at] for at in (0, 3, 4, 7)] == [None] * 4


def test_every_layout_of_a_column_of_texts_is_read() -> None:
    texts = ["1.2.3.4", "::1", None]
    expected = ["1.2.3.4", "::1", None]
    for values in (
        pa.array(texts, pa.large_string()),
        pa.array(texts, pa.string()).dictionary_encode(),
        pa.chunked_array([pa.array(texts[:1]), pa.array(texts[1:])]),
        pa.array(["x", *texts]).slice(1),
        pa.array(texts, pa.string_view()),
    ):
        column = ip(values)
        assert column.values.to_pylist() == expected
        assert column.values.type == pa.string()


def test_types_are_those_agreed() -> None:
    for values in (pa.array(["1.2.3.4", "x"]), pa.array([None], pa.string()), pa.array(["::1", "::1"])):
        column = ip(values)
        assert column.values.type == pa.string()
        assert column.changes.type == pa.uint32()
        assert column.confidence.type == pa.float32()
        assert column.reasons.type.value_type == pa.string()


def test_each_distinct_value_is_judged_once() -> None:
    seen: list[str] = []

    def exact(text: str) -> Canonical | Refused:
        seen.append(text)
        return Canonical(text)

    canonicalise(pa.array(["a", "b", "a"] * 100), exact)
    assert sorted(seen) == ["a", "b"]


def test_what_the_fast_path_leaves_goes_to_the_exact_rule() -> None:
    def fast(values: pl.Series) -> Sure:
        return Sure.of(values, values.str.contains("^[a-z]$"), values)

    column = canonicalise(
        pa.array(["a", "B", "!", *"cdefghijklmnopqrstuvwxyz", *"0123456789"]),
        lambda text: Canonical("b", Change.CASE, 0.5) if text == "B" else Refused("no"),
        fast,
    )
    assert column.values.to_pylist()[:4] == ["a", "b", None, "c"]
    assert column.confidence.to_pylist()[:4] == [1, 0.5, 0, 1]


def test_a_rule_that_would_go_on_changing_is_refused() -> None:
    rule = stable(lambda text: Canonical(text[1:]) if text else Refused("empty"))
    assert isinstance(rule("ab"), Refused)
    assert stable(lambda text: Canonical(text.lower()))("AB") == Canonical("ab")
