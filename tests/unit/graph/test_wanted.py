"""What is looked for, source by source, and how much of it is taken."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.observables import ASKED_TYPES, OBSERVABLE_TYPES, find_observables
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.projections.graph import wanted as module
from heimdall_server.projections.graph.config import FINDABLE_TYPES, NAMEABLE_TYPES, GraphConfig, WarninglistsConfig
from heimdall_server.projections.graph.observations import NAMED_TYPES, observe
from heimdall_server.projections.graph.wanted import Wanted, observe_wanted
from tests.support.random_records import record

TEXT = "10.0.0.1 asked evil.net about d41d8cd98f00b204e9800998ecf8427e from 00:11:22:aa:bb:cc in AS64500"


def records(*rows: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([record(number, **row) for number, row in enumerate(rows)], schema=RECORD_SCHEMA)


def seen(batch: pa.RecordBatch, wanted: Wanted) -> set[tuple[int, str, str]]:
    frame = observe_wanted(batch, wanted).observations
    return set(frame.select("row", "type", "value").iter_rows())


def test_the_configurations_types_are_those_that_can_be_found() -> None:
    assert set(FINDABLE_TYPES) == {*OBSERVABLE_TYPES, *ASKED_TYPES}
    assert set(NAMEABLE_TYPES) == set(NAMED_TYPES.values())


def test_each_source_is_searched_for_what_the_first_glob_says_and_the_others_for_what_is_usual() -> None:
    batch = records(
        {"source": "web-1", "body": TEXT, "attributes": {"md5": "d41d8cd98f00b204e9800998ecf8427e"}},
        {"source": "debug", "body": TEXT, "attributes": {"client_ip": "10.0.0.2"}},
        {"source": "edr-7", "body": TEXT},
        {"source": "app", "body": TEXT, "attributes": {"md5": "d41d8cd98f00b204e9800998ecf8427e"}},
    )
    asked = {"web-*": ("ip", "domain"), "debug": (), "edr-*": ("md5", "mac", "asn"), "*-7": ("domain",)}
    assert seen(batch, Wanted(asked)) == {
        (0, "ipv4", "10.0.0.1"),
        (0, "domain", "evil.net"),
        (2, "md5", "d41d8cd98f00b204e9800998ecf8427e"),
        (2, "mac", "00:11:22:aa:bb:cc"),
        (2, "asn", "AS64500"),
        (3, "ipv4", "10.0.0.1"),
        (3, "domain", "evil.net"),
        (3, "md5", "d41d8cd98f00b204e9800998ecf8427e"),
    }
    assert not seen(batch, Wanted({"*": ()}))
    usual = observe_wanted(batch, Wanted())
    assert usual.observations.equals(observe(batch))
    assert not usual.cut_count


@pytest.mark.parametrize(
    ("text", "type_name", "values"),
    [
        ("md5=D41D8CD98F00B204E9800998ECF8427E.", "md5", ["d41d8cd98f00b204e9800998ecf8427e"]),
        ("f" * 64, "md5", []),
        ("x" + "f" * 32, "md5", []),
        ("sha1 " + "a" * 40, "sha1", ["a" * 40]),
        ("00-11-22-AA-BB-CC", "mac", ["00:11:22:aa:bb:cc"]),
        ("00:11:22:aa:bb:cc:dd", "mac", []),
        ("from AS64500, LAS5 and AS5x", "asn", ["AS64500"]),
    ],
)
def test_what_is_doubtful_in_texts_is_found_where_it_is_asked_for(text: str, type_name: str, values: list[str]) -> None:
    assert find_observables(pa.array([text]), [type_name])["value"].to_pylist() == values
    assert type_name not in find_observables(pa.array([text]))["type"].to_pylist()


def test_a_record_with_ten_thousand_addresses_is_cut_and_counted_and_whole_fields_come_first() -> None:
    many = " ".join(f"10.{number >> 8 & 255}.{number & 255}.1" for number in range(10_000))
    batch = records(
        {"source": "a", "body": many, "attributes": {"peer_ip": "192.0.2.9"}}, {"source": "a", "body": "1.2.3.4"}
    )
    found = observe_wanted(batch, Wanted(per_record_max=100))
    assert found.cut_count == 9_901
    assert len(found.observations.filter(pl.col("row") == 0)) == 100
    assert {"192.0.2.9", "1.2.3.4"} <= set(found.observations["value"])


@given(st.lists(st.lists(st.integers(0, 255), max_size=12), min_size=1, max_size=8), st.integers(1, 5), st.data())
def test_what_is_kept_of_a_record_doesnt_depend_on_those_beside_it(
    rows: list[list[int]], most: int, data: st.DataObject
) -> None:
    batch = records(
        *(
            {
                "source": f"s{len(row) % 3}",
                "body": " ".join(f"10.0.0.{one}" for one in row[::2]),
                "attributes": {f"k{one % 3}": f"x 10.0.1.{one}" for one in row[1::2]},
            }
            for row in rows
        )
    )
    wanted = Wanted({"s1": ("ip",), "s2": ("ipv4", "domain")}, per_record_max=most)
    whole = observe_wanted(batch, wanted)
    cut_at = data.draw(st.integers(0, len(rows)))
    parts = [observe_wanted(part, wanted) for part in (batch.slice(0, cut_at), batch.slice(cut_at))]

    def plain(frame: pl.DataFrame, start: int) -> set[tuple[Any, ...]]:
        return {(row + start, *rest) for row, *rest in frame.iter_rows()}

    apart = plain(parts[0].observations, 0) | plain(parts[1].observations, cut_at)
    assert plain(whole.observations, 0) == apart
    assert whole.cut_count == sum(part.cut_count for part in parts)


def test_large_records_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = records(*({"source": "a", "body": f"10.0.0.{number} " + "x" * 500} for number in range(64)))
    whole = observe_wanted(batch, Wanted())
    monkeypatch.setattr(module, "_PIECE_BYTES", 4096)
    assert observe_wanted(batch, Wanted()).observations.equals(whole.observations)


def test_all_that_is_wrong_with_the_settings_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        GraphConfig(sources={"a*": ("ipv5",)}, observables_per_record_max=0, share=0.0, nice=20)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigurationError, match="tranco"):
        WarninglistsConfig(confidence={"tranco": 101})
