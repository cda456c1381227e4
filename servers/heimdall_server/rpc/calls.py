"""The call that is being served: who made it, under which id, until when. Free of gRPC, so that any layer may ask.

Whatever serves a call sets it (the gRPC interceptor, later the ASGI edge); log lines take the request id and the
principal from here.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.identity import Principal

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata key of the request id, both ways."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    principal: Principal
    request_id: str
    method: str
    """Full name: `heimdall.query.v1.QueryService/Search`."""
    peer: str
    """Transport address of the caller: `ipv4:127.0.0.1:40312`."""
    deadline_s: float | None = None
    """When the caller stops waiting, on the monotonic clock; none: never."""

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, never negative; none: there is no deadline."""
        if self.deadline_s is None:
            return None
        return max(0.0, self.deadline_s - time.monotonic())


_CURRENT: Final[ContextVar[Call | None]] = ContextVar("heimdall_call", default=None)


def current_call() -> Call:
    """The call being served.

    Raises:
        RuntimeError: Asked outside of a call. A task that a call starts inherits it.
    """
    call = _CURRENT.get()
    if call is None:
        msg = "asked for the current call outside of one"
        raise RuntimeError(msg)
    return call


def find_call() -> Call | None:
    """The call being served, if one is."""
    return _CURRENT.get()


@contextmanager
def serving(call: Call) -> Iterator[Call]:
    """Make `call` the current one within the block."""
    token = _CURRENT.set(call)
    try:
        yield call
    finally:
        _CURRENT.reset(token)


def request_id_from(sent: str | None) -> str:
    """The request id to use: what the client sent if that is usable, else a new one.

    Args:
        sent: Value of `x-request-id`; anything but 1 to 128 of `A-Z a-z 0-9 . _ : / + = -` is ignored, since the
            id goes into logs and back to the client.
    """
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return secrets.token_hex(16)
