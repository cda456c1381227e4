"""Captures what leaves a server for those who ask: each message of a search or a watch as the bytes that came."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, Self

import grpc
from google.protobuf.message import DecodeError

from heimdall.query.v1 import query_service_pb2 as pb
from tests.support.server_process import ServerProcess

_SERVICE: Final = "/heimdall.query.v1.QueryService"
_MESSAGE_BYTES_MAX: Final = 8 << 20
_END_S: Final = 20.0
ENCODINGS: Final = (pb.ROW_ENCODING_JSON, pb.ROW_ENCODING_ARROW_IPC)

OWN_WORDS: Final = "the answer, which may repeat its caller's words, to"
"""Begins the name of what isn't a refusal."""
_REFUSED: Final = b"StatusCode."


def is_refusal(heard: bytes) -> bool:
    """Whether a message ends something: a call, or a watch of several on a stream."""
    if heard.startswith(_REFUSED):
        return True
    try:
        return pb.WatchResponse.FromString(heard).WhichOneof("message") == "cancelled"
    except DecodeError:
        return False


def error_bytes(error: grpc.RpcError) -> bytes:
    """All that a refusal says: sentence, details, metadata."""
    told: Any = error
    trailing = b"\n".join(
        value if isinstance(value, bytes) else str(value).encode() for _, value in told.trailing_metadata() or ()
    )
    return f"{told.code()}: {told.details()}\n".encode() + trailing


class QueryPort:
    """The query service of a server, spoken to in bytes."""

    def __init__(self, server: ServerProcess, name: str = "admin") -> None:
        options = [("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX)]
        self._channel = grpc.secure_channel(server.address, server.credentials(name), options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def search(
        self, text: str, *, encoding: pb.RowEncoding.ValueType = pb.ROW_ENCODING_JSON, sql: bool = False
    ) -> list[bytes]:
        """Everything that a search says, a refusal included."""
        question = pb.Question(sql=text) if sql else pb.Question(text=text)
        request = pb.SearchRequest(question=question, row_encoding=encoding, consistent=True)
        return self._ask("Search", request, streams=True)

    def explain(self, text: str) -> list[bytes]:
        """How it would be answered."""
        return self._ask("Explain", pb.ExplainRequest(question=pb.Question(text=text)))

    def field_values(self, field: str) -> list[bytes]:
        """What a field holds."""
        return self._ask("ListFieldValues", pb.ListFieldValuesRequest(field=field))

    def fields(self) -> list[bytes]:
        """The names of fields."""
        return self._ask("ListFields", pb.ListFieldsRequest())

    def watch(self, *texts: str) -> Watch:
        """Follow some questions, each in every encoding."""
        return Watch(self._channel, texts)

    def _ask(self, method: str, request: Any, *, streams: bool = False) -> list[bytes]:
        make = self._channel.unary_stream if streams else self._channel.unary_unary
        call: Any = make(f"{_SERVICE}/{method}", request_serializer=type(request).SerializeToString)
        heard: list[bytes] = []
        try:
            if not streams:
                return [call(request, timeout=_END_S)]
            heard.extend(call(request, timeout=_END_S))
        except grpc.RpcError as error:
            heard.append(error_bytes(error))
        return heard


class Watch:
    """A watch stream, read by a thread until it is closed."""

    def __init__(self, channel: grpc.Channel, texts: tuple[str, ...]) -> None:
        self.heard: list[bytes] = []
        self._requests: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        for number, text in enumerate(texts):
            for encoding in ENCODINGS:
                create = pb.WatchRequest.Create(
                    watch_id=f"w{number}-{encoding}", question=pb.Question(text=text), row_encoding=encoding
                )
                self._requests.put(pb.WatchRequest(create=create))
        method: Any = channel.stream_stream(f"{_SERVICE}/Watch", request_serializer=pb.WatchRequest.SerializeToString)
        self._call = method(self._sent())
        self._reader = threading.Thread(target=self._read, name="watch", daemon=True)
        self._reader.start()

    def wait_for(self, count: int) -> None:
        """Wait until so many messages came, or the stream ended."""
        deadline_s = time.monotonic() + _END_S
        while len(self.heard) < count and self._reader.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def close(self) -> list[bytes]:
        """Hang up; all that was heard."""
        self._requests.put(None)
        self._call.cancel()
        self._reader.join(_END_S)
        return self.heard

    def _sent(self) -> Iterator[pb.WatchRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            self.heard.extend(self._call)
        except grpc.RpcError as error:
            self.heard.append(error_bytes(error))
