"""Log records from a program: one call a record, NDJSON on the way."""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from heimdall_client.ingester import AsyncIngester, IngestSummary
from heimdall_client.translate import TimeLike, to_time_ns

RESERVED_NAMES: Final = frozenset(
    [
        "time",
        "timestamp",
        "@timestamp",
        "ts",
        "level",
        "severity",
        "lvl",
        "severity_number",
        "severity_text",
        "msg",
        "message",
        "body",
        "log",
        "service",
        "service.name",
        "app",
        "host",
        "hostname",
        "host.name",
        "trace_id",
        "traceid",
        "trace.id",
        "span_id",
        "spanid",
        "span.id",
        "flags",
        "trace_flags",
        "event_name",
        "scope_name",
        "scope_version",
    ]
)
"""Names under which the server looks for a record's core fields."""
ATTRIBUTE_PREFIX: Final = "attribute."
"""Goes before an attribute whose name is reserved, so that it stays an attribute."""


def encode_record(
    body: str,
    *,
    severity: str | int = "INFO",
    service: str = "",
    host: str = "",
    attributes: Mapping[str, Any] | None = None,
    time_: TimeLike | None = None,
    trace_id: str = "",
    span_id: str = "",
) -> bytes:
    r"""A record as a line of NDJSON.

    Args:
        body: The message.
        severity: A name (`INFO`, `warn`, `fatal`), or OpenTelemetry's number, 1 to 24.
        service: Empty: the source's default.
        host: Empty: the source's default.
        attributes: Anything JSON holds; nested objects become dotted names. Other values are sent as their text.
        time_: None: now.
        trace_id: 32 hex digits, or empty.
        span_id: 16 hex digits, or empty.

    Example:
        >>> from heimdall_client.records import encode_record
        >>> encode_record("paid", service="orders", attributes={"amount": 12.5}, time_=0)
        b'{"time":"1970-01-01T00:00:00.000000000Z","severity":"INFO","msg":"paid","service":"orders","amount":12.5}\n'
    """
    record: dict[str, Any] = {
        "time": _rfc3339(time.time_ns() if time_ is None else to_time_ns(time_)),
        "severity_number" if isinstance(severity, int) else "severity": severity,
        "msg": body,
    }
    named = {"service": service, "host": host, "trace_id": trace_id, "span_id": span_id}
    record |= {name: value for name, value in named.items() if value}
    record |= {_free_name(name): value for name, value in (attributes or {}).items()}
    try:
        text = _dump(record)
    except ValueError:  # NaN and infinities aren't JSON
        text = _dump(_finite(record))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _free_name(name: str) -> str:
    return ATTRIBUTE_PREFIX + name if name.lower() in RESERVED_NAMES else name


def _dump(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _rfc3339(time_ns: int) -> str:
    seconds, ns = divmod(time_ns, 1_000_000_000)
    whole = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


class AsyncRecordIngester:
    """Sends a program's own log records. Made by `AsyncClient.record_ingester`; use it as a context manager.

    Records are joined to batches by themselves: a lone one goes at once, many wait for one another up to
    `IngestOptions.linger_s`. Leaving the context flushes.

    Example:
        >>> async def main():
        ...     async with heimdall_client.connect_async() as client:
        ...         async with client.record_ingester("orders/worker-1", service="orders") as log:
        ...             await log.log("paid", attributes={"order": 17, "amount": 12.5})
        ...             await log.log("card refused", severity="WARN")
    """

    def __init__(self, ingester: AsyncIngester) -> None:
        self.ingester = ingester
        """Where the lines go."""

    async def log(
        self,
        body: str,
        *,
        severity: str | int = "INFO",
        service: str = "",
        host: str = "",
        attributes: Mapping[str, Any] | None = None,
        time: TimeLike | None = None,
        trace_id: str = "",
        span_id: str = "",
    ) -> None:
        """Send a record; see `encode_record`. Waits only while the buffer is full.

        Raises:
            HeimdallError: The source has failed.
        """
        await self.ingester.write(
            encode_record(
                body,
                severity=severity,
                service=service,
                host=host,
                attributes=attributes,
                time_=time,
                trace_id=trace_id,
                span_id=span_id,
            )
        )

    async def flush(self, *, timeout_s: float = 60.0) -> int:
        """Wait until every record is durable; see `AsyncIngester.flush`."""
        return await self.ingester.flush(timeout_s=timeout_s)

    async def summary(self) -> IngestSummary:
        """What became of the records so far."""
        return await self.ingester.summary()

    async def __aenter__(self) -> Self:
        await self.ingester.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.ingester.__aexit__(kind, error, trace)
