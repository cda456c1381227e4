"""A request as the doors see it, what they answer, and why one may be refused."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

from heimdall.types.v1.method_policy_pb2 import MethodPolicy

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
JSON_TYPE: Final = "application/json"
PROTOBUF_TYPE: Final = "application/x-protobuf"
TEXT_TYPE: Final = "text/plain; charset=utf-8"


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


class RefusedError(Exception):
    """A request that HTTP itself has a status for."""

    def __init__(self, status: int, sentence: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Say why.

        Args:
            status: Of HTTP.
            sentence: For a person.
            headers: Further ones for the answer.
        """
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers or {}


class Body:
    """What is left of a request's body on its connection."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False
        """Nothing more will come."""

    async def read(self) -> bytes:
        """The next piece; may be empty.

        Raises:
            ClientGoneError: The connection ended first.
        """
        message = await self._receive()
        if message["type"] != "http.request":
            self.ended = True
            raise ClientGoneError
        self.ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Lower-case names; of a repeated header the last counts."""
    leaf_pem: bytes | None
    """The client's certificate."""
    peer: str
    body: Body

    @classmethod
    def of(cls, scope: Mapping[str, Any], receive: Receive) -> Self:
        """Read an ASGI scope."""
        chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
        leaf = next(iter(chain), None)
        host, port = scope.get("client") or ("", 0)
        return cls(
            scope["method"],
            scope["path"],
            dict(urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"))),
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            None if leaf is None else leaf.encode(),
            f"{host}:{port}",
            Body(receive),
        )

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_json(cls, status: int, value: object) -> Self:
        """An answer in JSON."""
        return cls(status, json.dumps(value, separators=(",", ":")).encode(), JSON_TYPE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error, as far as a door tells it in its own form."""

    status: int
    sentence: str
    details: bytes
    """`google.rpc.Status`, encoded."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a door does."""

    name: str
    """A label of metrics."""
    policy: MethodPolicy
    run: Callable[[Request, bytes], Awaitable[Answer]]
    """With the body, its encoding undone."""
    takes_body: bool = False
    snappy_type: str = ""
    """Bodies of this content type are snappy blocks, whatever their headers say of an encoding."""
