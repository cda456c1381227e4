"""An export request in OTLP's JSON → the same in protobuf, which is what the decoder reads by columns.

OTLP's JSON isn't protobuf's: ids are hexadecimal, enums are numbers, names that aren't known are passed over. Protobuf's
own reader is Python all through (130 µs a record); here names are mapped on parsed JSON and the message is built in C
(30 µs). It holds the interpreter, and is for senders that can't do better: protobuf costs nothing of this. So that the
event loop gets its turns meanwhile, records are built one by one, and a request may be no larger than `BYTES_MAX`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from google.protobuf.message import EncodeError
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall_server.edge.http.messages import RefusedError

_Json: TypeAlias = Any
_Reader: TypeAlias = Callable[[_Json], Any]
_Fields: TypeAlias = Mapping[str, tuple[str, _Reader]]


BYTES_MAX: Final = 4 * 1024 * 1024
"""Python's JSON reader doesn't let go of the interpreter: this much takes it 60 ms."""


def to_protobuf(body: bytes) -> bytes:
    """Convert a request.

    Raises:
        RefusedError: 400; it isn't JSON, or not this request. 413; it is too large.
    """
    if len(body) > BYTES_MAX:
        raise RefusedError(413, f"a request in JSON may have {BYTES_MAX} bytes; send smaller ones, or protobuf")
    try:
        request = pb.ExportLogsServiceRequest()
        for resource_logs in _read(_REQUEST, json.loads(body)).get("resource_logs", ()):
            scopes = resource_logs.pop("scope_logs", ())
            of_resource = request.resource_logs.add(**resource_logs)
            for scope_logs in scopes:
                records = scope_logs.pop("log_records", ())
                into = of_resource.scope_logs.add(**scope_logs).log_records
                for record in records:
                    into.add(**_read(_RECORD, record))
        return request.SerializeToString()
    except (ValueError, TypeError, KeyError, AttributeError, EncodeError, RecursionError) as error:
        raise RefusedError(400, f"not an OTLP export request in JSON: {_said(error)}") from None


def _said(error: Exception) -> str:
    """What was wrong, without the request's values."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error) if isinstance(error, _ShapeError) else "a value doesn't fit its field"


class _ShapeError(ValueError):
    """A value of another kind than its field's."""


def _read(fields: _Fields, value: _Json) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = "an object was expected"
        raise _ShapeError(msg)
    out = {}
    for key, part in value.items():
        known = fields.get(key)
        if known is not None and part is not None:
            out[known[0]] = known[1](part)
    return out


def _message(fields: _Fields) -> _Reader:
    return lambda value: _read(fields, value)


def _list(reader: _Reader) -> _Reader:
    def read(value: _Json) -> list[Any]:
        if not isinstance(value, list):
            msg = "a list was expected"
            raise _ShapeError(msg)
        return [reader(part) for part in value]

    return read


def _as_it_is(value: _Json) -> _Json:
    return value


def _text(value: _Json) -> str:
    if not isinstance(value, str):
        msg = "a text was expected"
        raise _ShapeError(msg)
    return value


def _whole(value: _Json) -> int:
    """64 bits are text in JSON; a number is taken, too, if it is whole."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    msg = "a whole number was expected"
    raise _ShapeError(msg)


def _number(value: _Json) -> float:
    """Also `"NaN"`, `"Infinity"` and `"-Infinity"`."""
    return float(value)


def _truth(value: _Json) -> bool:
    if not isinstance(value, bool):
        msg = "true or false was expected"
        raise _ShapeError(msg)
    return value


def _id(value: _Json) -> bytes:
    return bytes.fromhex(_text(value))


def _base64(value: _Json) -> bytes:
    text = _text(value).translate(_URL_SAFE)
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _severity(value: _Json) -> int:
    """A number by OTLP's rules; by protobuf's, the name that some senders write."""
    if isinstance(value, str) and not value.isdecimal():
        return int(logs_pb2.SeverityNumber.Value(value))
    return _whole(value)


def _value(value: _Json) -> dict[str, Any]:
    # Nearly all values are texts.
    if isinstance(value, dict) and len(value) == 1 and isinstance(text := value.get("stringValue"), str):
        return {"string_value": text}
    return _read(_ANY_VALUE, value)


def _pair(value: _Json) -> dict[str, Any]:
    if (
        isinstance(value, dict)
        and len(value) == 2
        and isinstance(key := value.get("key"), str)
        and value.get("value") is not None
    ):
        return {"key": key, "value": _value(value["value"])}
    return _read(_KEY_VALUE, value)


_URL_SAFE: Final = str.maketrans("-_", "+/")
_KEY_VALUE: Final[_Fields] = {"key": ("key", _text), "value": ("value", _value)}
_ATTRIBUTES: Final = _list(_pair)
_ANY_VALUE: Final[_Fields] = {
    "stringValue": ("string_value", _text),
    "boolValue": ("bool_value", _truth),
    "intValue": ("int_value", _whole),
    "doubleValue": ("double_value", _number),
    "bytesValue": ("bytes_value", _base64),
    "arrayValue": ("array_value", _message({"values": ("values", _list(_value))})),
    "kvlistValue": ("kvlist_value", _message({"values": ("values", _ATTRIBUTES)})),
}
_DROPPED: Final = ("dropped_attributes_count", _whole)
_ENTITY: Final[_Fields] = {
    "schemaUrl": ("schema_url", _text),
    "type": ("type", _text),
    "idKeys": ("id_keys", _list(_text)),
    "descriptionKeys": ("description_keys", _list(_text)),
}
_RECORD: Final[_Fields] = {
    "timeUnixNano": ("time_unix_nano", _whole),
    "observedTimeUnixNano": ("observed_time_unix_nano", _whole),
    "severityNumber": ("severity_number", _severity),
    "severityText": ("severity_text", _text),
    "body": ("body", _value),
    "attributes": ("attributes", _ATTRIBUTES),
    "droppedAttributesCount": _DROPPED,
    "flags": ("flags", _whole),
    "traceId": ("trace_id", _id),
    "spanId": ("span_id", _id),
    "eventName": ("event_name", _text),
}
_SCOPE: Final[_Fields] = {
    "name": ("name", _text),
    "version": ("version", _text),
    "attributes": ("attributes", _ATTRIBUTES),
    "droppedAttributesCount": _DROPPED,
}
_SCOPE_LOGS: Final[_Fields] = {
    "scope": ("scope", _message(_SCOPE)),
    "logRecords": ("log_records", _list(_as_it_is)),
    "schemaUrl": ("schema_url", _text),
}
_RESOURCE: Final[_Fields] = {
    "attributes": ("attributes", _ATTRIBUTES),
    "droppedAttributesCount": _DROPPED,
    "entityRefs": ("entity_refs", _list(_message(_ENTITY))),
}
_RESOURCE_LOGS: Final[_Fields] = {
    "resource": ("resource", _message(_RESOURCE)),
    "scopeLogs": ("scope_logs", _list(_message(_SCOPE_LOGS))),
    "schemaUrl": ("schema_url", _text),
}
_REQUEST: Final[_Fields] = {"resourceLogs": ("resource_logs", _list(_message(_RESOURCE_LOGS)))}
