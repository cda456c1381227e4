"""The OTLP decoder as it is meant: record by record over the OpenTelemetry classes. Limits of a record left out."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from heimdall_server.decode import severity
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.records import OBSERVED_SKEW_NS_MAX, SAFE_INTEGER_MAX, TimeFlag

Row = dict[str, Any]


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Records as plain values: times as nanoseconds, maps as dictionaries without duplicates."""
    for name in ("time", "observed_time"):
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, name, batch.column(at).cast(pa.int64()))
    rows: list[Row] = batch.to_pylist()
    for row in rows:
        for key, value in row.items():
            if isinstance(value, list):
                row[key] = dict(value)
                assert len(row[key]) == len(value), f"{key} has a key twice"
    return rows


def expected_rows(requests: Iterable[ExportLogsServiceRequest], context: DecodeContext) -> list[Row]:
    """What the decoder should make of requests."""
    rows: list[Row] = []
    for request in requests:
        for resource_logs in request.resource_logs:
            resource = _added("otel.", resource_logs.schema_url, resource_logs.resource.dropped_attributes_count)
            references = resource_logs.resource.entity_refs
            if references:
                resource["otel.entity_refs"] = _json(
                    [
                        {
                            "schema_url": one.schema_url,
                            "type": one.type,
                            "id_keys": list(one.id_keys),
                            "description_keys": list(one.description_keys),
                        }
                        for one in references
                    ]
                )
            resource |= _typed(resource_logs.resource.attributes)
            named = {
                column: resource.pop(key) if isinstance(resource.get(key), str) else ""
                for key, column in (("service.name", "service"), ("host.name", "host"))
            }
            for scope_logs in resource_logs.scope_logs:
                scope = scope_logs.scope
                of_scope = _added("scope.otel.", scope_logs.schema_url, scope.dropped_attributes_count)
                of_scope |= {f"scope.{key}": value for key, value in _typed(scope.attributes).items()}
                for record in scope_logs.log_records:
                    attributes = of_scope | _added("otel.", "", record.dropped_attributes_count)
                    row: Row = {
                        "service": named["service"] or context.service,
                        "host": named["host"] or context.host,
                        "scope_name": scope.name,
                        "scope_version": scope.version,
                        "severity_text": record.severity_text,
                        "body": _text(_value(record.body)),
                        "flags": record.flags,
                        "event_name": record.event_name,
                    }
                    level = int(record.severity_number)
                    if not 0 <= level <= 24:
                        attributes["severity_number"] = float(level)
                        level = 0
                    row["severity"] = level or int(severity.from_words(pa.array([record.severity_text]))[0])
                    for name, width in (("trace_id", 16), ("span_id", 8)):
                        raw = getattr(record, name)
                        row[name] = raw if len(raw) == width else bytes(width)
                        if raw and len(raw) != width:
                            attributes[name] = raw.hex()
                    attributes |= _typed(record.attributes)
                    attributes |= _set_times(row, record.time_unix_nano, record.observed_time_unix_nano, context)
                    for scope_name, values in (("attributes", attributes), ("resource", resource)):
                        row[scope_name] = {key: value for key, value in values.items() if isinstance(value, str)}
                        row[f"{scope_name}_number"] = {k: v for k, v in values.items() if isinstance(v, float)}
                        row[f"{scope_name}_bool"] = {k: v for k, v in values.items() if isinstance(v, bool)}
                    rows.append(row)
    return rows


def _set_times(row: Row, time: int, observed: int, context: DecodeContext) -> Row:
    seen = observed if 0 < observed <= context.observed_time_ns else context.observed_time_ns
    stated = time or observed
    usable = 0 < stated <= context.observed_time_ns + OBSERVED_SKEW_NS_MAX
    row["time"] = stated if usable else seen
    row["observed_time"] = seen
    row["time_flags"] = 0 if usable else TimeFlag.OUT_OF_RANGE if stated else TimeFlag.MISSING
    return {"time.original": str(stated)} if stated and not usable else {}


def _added(prefix: str, schema_url: str, dropped: int) -> Row:
    added: Row = {f"{prefix}schema_url": schema_url} if schema_url else {}
    return added | ({f"{prefix}dropped_attributes_count": float(dropped)} if dropped else {})


def _typed(attributes: Iterable[KeyValue]) -> Row:
    typed: Row = {}
    for pair in attributes:
        value = _value(pair.value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) <= SAFE_INTEGER_MAX else str(value)
        typed[pair.key] = value if isinstance(value, bool | float) else _text(value)
    return typed


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float):
        return (
            str(pa.scalar(value).cast(pa.string())) if not value.is_integer() or abs(value) > 2**53 else str(int(value))
        )
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _value(value: AnyValue, *, nested: bool = False) -> Any:
    kind = value.WhichOneof("value")
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    if kind == "array_value":
        return [_value(item, nested=True) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value, nested=True) for pair in value.kvlist_value.values}
    if kind == "double_value" and nested and not math.isfinite(value.double_value):
        return str(value.double_value)
    return getattr(value, kind) if kind in ("string_value", "int_value", "double_value", "bool_value") else None
