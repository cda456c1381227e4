"""What people pass to the SDK, as messages of the contract: questions, times, formats, sources' defaults."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.ingest.v1 import source_pb2
from heimdall.query.v1 import query_service_pb2
from heimdall.types.v1 import expression_pb2, time_range_pb2

Question = str | expression_pb2.Query | query_service_pb2.Question
"""Query language as text, a tree, or a ready question. For SQL: `sql("SELECT …")`."""

TimeLike = dt.datetime | dt.timedelta | str | int
"""An aware datetime, a span before now, text, or nanoseconds since 1970 UTC.

Text is a span before now (`15m`, `2h30m`, `7d`, `now-1h`), `now`, RFC 3339, or a date, which is its midnight in UTC.
"""

FormatLike = str | source_pb2.Format
"""Name of a kind (`ndjson`, `json`, `csv`, `arrow`, `otlp`, `syslog`, `text`), or the whole format."""

_UNIT_S: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h|d|w))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d|w)")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FRACTION: Final = re.compile(r"\.(\d+)")


def sql(statement: str) -> query_service_pb2.Question:
    """A question in SQL: a one-table SELECT over `logs`.

    Example:
        >>> from heimdall_client import sql
        >>> sql("SELECT service, count(*) FROM logs GROUP BY service").sql
        'SELECT service, count(*) FROM logs GROUP BY service'
    """
    return query_service_pb2.Question(sql=statement)


def to_question(question: Question) -> query_service_pb2.Question:
    """The contract's form of a question."""
    if isinstance(question, query_service_pb2.Question):
        return question
    if isinstance(question, expression_pb2.Query):
        return query_service_pb2.Question(tree=question)
    return query_service_pb2.Question(text=question)


def parse_span_s(text: str) -> float:
    """Read a span of time such as `90s`, `15m`, `2h30m`, `7d`.

    Returns:
        Seconds.

    Raises:
        ValueError: The text isn't one.

    Example:
        >>> from heimdall_client import parse_span_s
        >>> parse_span_s("2h30m")
        9000.0
    """
    if not _SPAN.fullmatch(text.strip()):
        msg = f"{text!r} isn't a span of time; write 90s, 15m, 2h30m or 7d"
        raise ValueError(msg)
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))


def to_time_ns(value: TimeLike, *, now_ns: int | None = None) -> int:
    """Nanoseconds since 1970 UTC of what a person calls a time.

    Args:
        value: See `TimeLike`. A time of day without an offset is refused, as is a datetime without a zone: whose clock?
        now_ns: What spans count back from.

    Raises:
        ValueError: It isn't a time.
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    if isinstance(value, int):
        return value
    if isinstance(value, dt.timedelta):
        return now_ns - _span_ns(value)
    if isinstance(value, str):
        text = value.strip()
        if text == "now":
            return now_ns
        span = text.removeprefix("now-")
        if _SPAN.fullmatch(span):
            return now_ns - round(parse_span_s(span) * 1e9)
        # datetime keeps microseconds only: the digits beyond are added by hand
        fraction = _FRACTION.search(text)
        digits = fraction.group(1)[:9].ljust(9, "0") if fraction else "0"
        try:
            whole = dt.datetime.fromisoformat(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else _FRACTION.sub("", text))
        except ValueError as error:
            msg = f"{value!r} isn't a time; write 15m, 2h30m, 7d, 2024-05-01 or 2024-05-01T12:00:00Z"
            raise ValueError(msg) from error
        return _datetime_ns(whole) + int(digits)
    return _datetime_ns(value)


def _datetime_ns(value: dt.datetime) -> int:
    if value.tzinfo is None:
        msg = f"{value.isoformat()} has no zone: add Z, or an offset as +02:00"
        raise ValueError(msg)
    return _span_ns(value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC))


def _span_ns(span: dt.timedelta) -> int:
    return (span.days * 86400 + span.seconds) * 1_000_000_000 + span.microseconds * 1000


def to_timestamp(value: TimeLike) -> Timestamp:
    """The contract's form of a time."""
    return Timestamp(seconds=(ns := to_time_ns(value)) // 1_000_000_000, nanos=ns % 1_000_000_000)


def to_duration(seconds: float) -> Duration:
    """The contract's form of a span."""
    ns = round(seconds * 1e9)
    return Duration(seconds=ns // 1_000_000_000, nanos=ns % 1_000_000_000)


def to_time_range(since: TimeLike | None, until: TimeLike | None) -> time_range_pb2.TimeRange | None:
    """A half-open range, open on the side that is None; None if both are."""
    if since is None and until is None:
        return None
    return time_range_pb2.TimeRange(
        start_time_inclusive=None if since is None else to_timestamp(since),
        end_time_exclusive=None if until is None else to_timestamp(until),
    )


def to_format(value: FormatLike | None, options: Mapping[str, str] | None = None) -> source_pb2.Format | None:
    """The contract's form of a format; None: the server tells it from the first bytes.

    Raises:
        ValueError: No such kind.
    """
    if value is None:
        return None
    if isinstance(value, source_pb2.Format):
        return value
    name = f"KIND_{value.upper()}"
    if name == "KIND_UNSPECIFIED" or name not in source_pb2.Format.Kind.keys():  # noqa: SIM118 - no mapping
        kinds = ", ".join(kind.removeprefix("KIND_").lower() for kind in source_pb2.Format.Kind.keys()[1:])
        msg = f"no format named {value!r}; there are {kinds}"
        raise ValueError(msg)
    return source_pb2.Format(kind=source_pb2.Format.Kind.Value(name), options=dict(options or {}))


def format_name(value: source_pb2.Format) -> str:
    """Name of a format's kind, as `to_format` takes it; empty if it isn't known."""
    return "" if not value.kind else source_pb2.Format.Kind.Name(value.kind).removeprefix("KIND_").lower()


def to_defaults(
    *,
    service: str = "",
    host: str = "",
    time_zone: str = "",
    reference_time: TimeLike | None = None,
    dataset: str = "",
    tlp: str = "",
) -> source_pb2.SourceDefaults:
    """What holds for records that don't say it themselves."""
    return source_pb2.SourceDefaults(
        service=service,
        host=host,
        time_zone=time_zone,
        reference_time=None if reference_time is None else to_timestamp(reference_time),
        dataset=dataset,
        tlp=tlp,
    )
