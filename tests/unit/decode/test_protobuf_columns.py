"""Protobuf to columns: what isn't a message is bad input, however the library says so."""

from __future__ import annotations

import pytest

from heimdall.stored.v1 import loki_shadow_pb2, otlp_shadow_pb2
from heimdall_server.decode.protobuf_columns import reader_of

BEYOND = b"\x0a" + b"\xff" * 9 + b"\x1d"
"""Field 1 with a length beyond 2^63, which makes the library panic."""


@pytest.mark.parametrize("message", [loki_shadow_pb2.LokiPush, otlp_shadow_pb2.OtlpExport])
@pytest.mark.parametrize("payload", [BEYOND, BEYOND + b"x" * 40, b"\x0a\x05x", b"\xff"])
def test_what_is_no_message_is_a_value_error(message: type[loki_shadow_pb2.LokiPush], payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        reader_of(message.DESCRIPTOR)([payload])


def test_a_message_becomes_a_row() -> None:
    push = loki_shadow_pb2.LokiPush()
    push.streams.add(labels='{a="b"}')
    (row,) = reader_of(loki_shadow_pb2.LokiPush.DESCRIPTOR)([push.SerializeToString()]).to_pylist()
    assert [stream["labels"] for stream in row["streams"]] == ['{a="b"}']
