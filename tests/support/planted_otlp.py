"""OTLP with planted values: one in each place that a log record, its scope and its resource have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from tests.support.planted import HIDDEN_KINDS, HOST_KINDS, SHORT_KINDS, Planted, Value


def otlp_request(planted: Planted, door: str) -> logs_service_pb2.ExportLogsServiceRequest:
    """A request with a value in each place that OTLP has."""
    take = planted.take_all
    records = [logs_pb2.LogRecord(body=_text(value.text)) for value in take(f"{door}: body")]
    for value in take(f"{door}: body object"):
        pairs = common_pb2.KeyValueList(values=[_pair("note", value.text)])
        records.append(logs_pb2.LogRecord(body=common_pb2.AnyValue(kvlist_value=pairs)))
    places: Mapping[str, Callable[[Value], common_pb2.KeyValue]] = {
        "attribute": lambda value: _pair("note", value.text),
        "named attribute": lambda value: _pair(value.field, value.bare),
        "attribute name": lambda value: _pair(value.text, "x"),
        "array": lambda value: common_pb2.KeyValue(
            key="list",
            value=common_pb2.AnyValue(array_value=common_pb2.ArrayValue(values=[_text("x"), _text(value.text)])),
        ),
        "object": lambda value: common_pb2.KeyValue(
            key="object",
            value=common_pb2.AnyValue(kvlist_value=common_pb2.KeyValueList(values=[_pair(value.field, value.bare)])),
        ),
    }
    for place, make in places.items():
        records += [logs_pb2.LogRecord(body=_text("m"), attributes=[make(one)]) for one in take(f"{door}: {place}")]
    for value in take(f"{door}: bytes", HIDDEN_KINDS):
        pair = common_pb2.KeyValue(key="raw", value=common_pb2.AnyValue(bytes_value=value.text.encode()))
        records.append(logs_pb2.LogRecord(body=_text("m"), attributes=[pair]))
    for value in take(f"{door}: event name"):
        records.append(logs_pb2.LogRecord(body=_text("m"), event_name=value.text))
    for value in take(f"{door}: level"):
        records.append(logs_pb2.LogRecord(body=_text("m"), severity_text=value.text))
    request = logs_service_pb2.ExportLogsServiceRequest()
    first = request.resource_logs.add()
    first.resource.attributes.extend(
        _pair(f"note.{n}", value.text) for n, value in enumerate(take(f"{door}: resource"))
    )
    first.resource.attributes.extend(_pair(value.text, "x") for value in take(f"{door}: resource name"))
    first.scope_logs.add().log_records.extend(records)
    for value in take(f"{door}: scope", SHORT_KINDS):
        scope = request.resource_logs.add(schema_url=f"https://example.org/{value.bare}").scope_logs.add(
            schema_url=f"https://example.org/{value.bare}"
        )
        scope.scope.name, scope.scope.version = value.bare, value.bare
        scope.scope.attributes.append(_pair("note", value.text))
        scope.log_records.add().body.string_value = "of a scope"
    for value in take(f"{door}: service", HOST_KINDS):
        named = request.resource_logs.add()
        named.resource.attributes.extend([_pair("service.name", value.bare), _pair("host.name", value.bare)])
        named.scope_logs.add().log_records.add().body.string_value = "of a service"
    return request


def _text(value: str) -> common_pb2.AnyValue:
    return common_pb2.AnyValue(string_value=value)


def _pair(key: str, value: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=key, value=_text(value))
