from __future__ import annotations

import datetime as dt
import json

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall.ingest.v1 import source_pb2
from heimdall_client import encode_record, errors, translate
from heimdall_client.backoff import Backoff
from heimdall_client.channel import service_config, target_of

NOW_NS = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h30m", 9000), ("7d", 604800), ("1.5h", 5400), ("100ms", 0.1)]
)
def test_spans_are_read(text: str, seconds: float) -> None:
    assert translate.parse_span_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "7", "h", "1 h", "-1h", "1x"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="span of time"):
        translate.parse_span_s(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        ("now", NOW_NS),
        ("1h", NOW_NS - 3600 * 10**9),
        ("now-1h", NOW_NS - 3600 * 10**9),
        ("1970-01-02", 86400 * 10**9),
        (dt.timedelta(minutes=1), NOW_NS - 60 * 10**9),
        ("1970-01-01T00:00:01.000000007Z", 1_000_000_007),
        ("1970-01-01T01:00:00+01:00", 0),
        (dt.datetime(1970, 1, 2, tzinfo=dt.UTC), 86400 * 10**9),
    ],
)
def test_times_are_read_to_the_nanosecond(value: translate.TimeLike, expected: int) -> None:
    assert translate.to_time_ns(value, now_ns=NOW_NS) == expected


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "now-",
        "now-now",
        "2024-13-01",
        "2024-01-01T00:00:00",
        dt.datetime(2024, 1, 1),  # noqa: DTZ001
    ],
)
def test_time_without_zone_or_sense_is_refused(value: translate.TimeLike) -> None:
    with pytest.raises(ValueError, match=r"zone|isn't a time"):
        translate.to_time_ns(value)


def test_ranges_are_open_where_nothing_is_given() -> None:
    assert translate.to_time_range(None, None) is None
    half = translate.to_time_range("1h", None)
    assert half is not None
    assert not half.HasField("end_time_exclusive")
    assert translate.to_duration(1.25).ToMilliseconds() == 1250


def test_formats_have_names() -> None:
    csv = translate.to_format("csv", {"delimiter": ";"})
    assert csv is not None
    assert csv.kind == source_pb2.Format.KIND_CSV
    assert translate.format_name(csv) == "csv"
    assert translate.format_name(source_pb2.Format()) == ""
    assert translate.to_format(None) is None
    for wrong in ("xml", "unspecified"):
        with pytest.raises(ValueError, match="there are ndjson"):
            translate.to_format(wrong)


@given(
    body=st.text(),
    attributes=st.dictionaries(
        st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.floats()))
    ),
)
def test_any_record_is_one_line_of_json(body: str, attributes: dict[str, object]) -> None:
    line = encode_record(body, attributes=attributes)
    assert line.count(b"\n") == 1
    record = json.loads(line)
    assert record["time"].endswith("Z")
    assert len(record) >= len(attributes) + 3 - len({"time", "severity", "msg"} & set(attributes))


def test_attributes_never_take_the_place_of_core_fields() -> None:
    line = encode_record("x", severity=17, attributes={"Level": 1, "msg": 2, "user": object}, time_=0, trace_id="ab")
    record = json.loads(line)
    assert record["msg"] == "x"
    assert record["severity_number"] == 17
    assert record["attribute.Level"] == 1
    assert record["attribute.msg"] == 2
    assert record["trace_id"] == "ab"
    assert record["user"] == "<class 'object'>"


@pytest.mark.parametrize(
    ("address", "target", "authority"),
    [
        ("127.0.0.1:7443", "127.0.0.1:7443", ""),
        ("dns:///heimdall:7443", "dns:///heimdall:7443", ""),
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", "10.0.0.1:1"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", "10.0.0.1:1"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2", "[::1]:1"),
        ("localhost:1,localhost:2", "ipv4:127.0.0.1:1,127.0.0.1:2", "localhost:1"),
    ],
)
def test_addresses_become_targets(address: str, target: str, authority: str) -> None:
    assert target_of(address) == (target, authority)


@pytest.mark.parametrize("address", ["a,b:1", "10.0.0.1:1,[::1]:1", "xyz:///a:1,b:1", "nosuch.invalid:1,127.0.0.1:1"])
def test_lists_that_can_not_be_are_refused(address: str) -> None:
    with pytest.raises(errors.ConfigError, match="address:"):
        target_of(address)


def test_only_idempotent_methods_are_retried_by_grpc() -> None:
    names = [
        (name["service"].rpartition(".")[2], name.get("method", "*"))
        for name in service_config()["methodConfig"][0]["name"]
    ]
    assert ("QueryService", "Search") in names
    assert ("IngestService", "Append") not in names
    assert ("QueryService", "Watch") not in names


def test_backoff_grows_honours_the_server_and_gives_up() -> None:
    now_s = 0.0
    backoff = Backoff("it", initial_s=1, longest_s=4, give_up_after_s=100, clock=lambda: now_s)
    for ceiling_s in (1, 2, 4, 4):
        assert 0 <= backoff.next_delay_s(ValueError()) <= ceiling_s
    now_s = 99
    told = errors.OverloadedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "", retry_after_s=20)
    assert 20 <= backoff.next_delay_s(told) <= 25
    now_s = 100
    with pytest.raises(errors.GaveUpError, match="the last problem was: last"):
        backoff.next_delay_s(ValueError("last"))
    backoff.progressed()
    assert backoff.next_delay_s(ValueError()) <= 1
