"""Messages of the contract as plain values, for `--output json`.

Unlike protobuf's own JSON, 64-bit integers are numbers, enum values lose their prefix, and a span is its seconds:
what comes out is meant for `jq`.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def to_plain(message: Message) -> Any:  # noqa: ANN401 - what JSON can say
    """A message as dicts, lists, texts and numbers. Unset messages are null, empty lists stay."""
    if isinstance(message, Timestamp):
        return to_text(message)
    if isinstance(message, Duration):
        return message.ToNanoseconds() / 1e9
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            plain[field.name] = {str(key): _scalar(item) for key, item in value.items()}
        elif field.is_repeated:
            plain[field.name] = [_value(item, field.enum_type) for item in value]
        elif field.has_presence and not message.HasField(field.name):
            if field.containing_oneof is None:
                plain[field.name] = None
        else:
            plain[field.name] = _value(value, field.enum_type)
    return plain


def to_text(time: Timestamp) -> str:
    """A time as RFC 3339, with the nanoseconds that it has."""
    whole = dt.datetime.fromtimestamp(time.seconds, dt.UTC)
    fraction = f".{time.nanos:09d}".rstrip("0") if time.nanos else ""
    return f"{whole:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def enum_name(enum: Any, number: int) -> str:  # noqa: ANN401 - of two descriptor classes, see protobuf
    """Name of an enum's value without the enum's own, lower case: `HEALTH_SERVING` is `serving`."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    first: str = enum.values_by_number[0].name
    name: str = value.name
    return name.removeprefix(first.removesuffix("UNSPECIFIED")).lower()


def print_json(value: object) -> None:
    """A value on one line of standard output."""
    from heimdall_client.cli.console import write_line

    write_line(json.dumps(value, ensure_ascii=False))


def _value(value: Any, enum: Any) -> Any:  # noqa: ANN401 - of two descriptor classes, see protobuf
    if enum is not None:
        return enum_name(enum, value)
    return to_plain(value) if isinstance(value, Message) else _scalar(value)


def _scalar(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Message):
        return to_plain(value)
    return value.hex() if isinstance(value, bytes) else value
