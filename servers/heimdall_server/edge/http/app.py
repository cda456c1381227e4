"""The ASGI application: what happens around each request, whatever the door.

    request id → identity → permission → admission → body → the door's work → answer → metrics, log

The same order and the same objects as `rpc/interceptors`: who may not here may not there. A door tells errors in its own
protocol's form.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from heimdall_server.domain.errors import DrainingError, HeimdallError, RecordTooLargeError, UnauthenticatedError
from heimdall_server.edge.http import metrics
from heimdall_server.edge.http.bodies import body_of, pass_over
from heimdall_server.edge.http.identity import Callers
from heimdall_server.edge.http.messages import (
    Answer,
    ClientGoneError,
    Operation,
    Receive,
    Refusal,
    RefusedError,
    Request,
    Send,
)
from heimdall_server.protect.texts import masked_text
from heimdall_server.rpc import status
from heimdall_server.rpc.admission import Admission
from heimdall_server.rpc.calls import REQUEST_ID_KEY, Call, current_call, request_id_from, serving
from heimdall_server.rpc.limits import InflightBytes
from heimdall_server.rpc.logs import failure_fields
from heimdall_server.rpc.permissions import Authorizer

_LOG: Final = logging.getLogger(__name__)
_NO_CONTENT: Final = 204
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500
_UNKNOWN: Final = "unknown"
_TIMEOUT_RETRY_S: Final = 1.0
_CODES: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: _NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED: _NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""What isn't named is our fault: 500."""
_STATUS_OF: Final[Mapping[int, int]] = {
    413: code_pb2.RESOURCE_EXHAUSTED,
    _NOT_FOUND: code_pb2.UNIMPLEMENTED,
    405: code_pb2.UNIMPLEMENTED,
    503: code_pb2.UNAVAILABLE,
}
"""`google.rpc.Code` of what HTTP itself refuses; else INVALID_ARGUMENT."""


class Door(Protocol):
    """One protocol on the edge."""

    @property
    def name(self) -> str:
        """A label of metrics."""
        ...

    def find(self, request: Request) -> Operation | None:
        """What a request asks for; None: nothing of this door's.

        Raises:
            RefusedError: A path of this door's, but not so (405).
        """
        ...

    def refuse(self, request: Request, refusal: Refusal) -> Answer:
        """An error in the protocol's own form."""
        ...


class EdgeApp:
    """See the module."""

    def __init__(
        self,
        doors: Sequence[Door],
        *,
        callers: Callers,
        admission: Admission,
        inflight: InflightBytes,
        body_bytes_max: int,
        request_s: float,
    ) -> None:
        """Prepare the application.

        Args:
            doors: Asked in order; the first tells the errors of what nobody knows.
            callers: Names callers.
            admission: Counts what is served, the calls of gRPC among them.
            inflight: The budget of request bytes, likewise.
            body_bytes_max: Most bytes of a body, before and after decompression.
            request_s: A request is answered within this time.
        """
        self._doors = doors
        self._callers = callers
        self._admission = admission
        self._inflight = inflight
        self._body_bytes_max = body_bytes_max
        self._request_s = request_s

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI has it."""
        started_s = time.perf_counter()
        request = Request.of(scope, receive)
        request_id = request_id_from(request.headers.get(REQUEST_ID_KEY))
        door, operation, problem = self._find(request)
        name = operation.name if operation is not None else _UNKNOWN
        caller = ""
        try:
            if problem is not None or operation is None:
                path = masked_text(request.path, addresses=True)
                raise problem or RefusedError(_NOT_FOUND, f"nothing here answers {request.method} {path}")
            with contextlib.ExitStack() as stack:
                caller = self._enter(request, request_id, door, operation, stack)
                answer = await self._work(request, operation)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - the one place that maps whatever was raised
            answer = await self._refused(request, door, error)
            self._log(error, answer, request, request_id, caller)
        metrics.REQUESTS.labels(door.name, name, str(answer.status)).inc()
        metrics.DURATION.labels(door.name, name).observe(time.perf_counter() - started_s)
        await _send(send, answer, request_id)

    def _find(self, request: Request) -> tuple[Door, Operation | None, RefusedError | None]:
        for door in self._doors:
            try:
                operation = door.find(request)
            except RefusedError as error:
                return door, None, error
            if operation is not None:
                return door, operation, None
        return self._doors[0], None, None

    def _enter(
        self, request: Request, request_id: str, door: Door, operation: Operation, stack: contextlib.ExitStack
    ) -> str:
        principal = self._callers.principal_of(request)
        method = f"{door.name}/{operation.name}"
        stack.enter_context(serving(Call(principal, request_id, method, request.peer)))
        Authorizer.check(principal, operation.policy)
        stack.enter_context(self._admission.admit(principal.uri, streaming=False, uninterrupted=False))
        return principal.uri

    async def _work(self, request: Request, operation: Operation) -> Answer:
        if not operation.takes_body:
            await pass_over(request, bytes_max=self._body_bytes_max)
            return await operation.run(request, b"")
        async with body_of(request, operation, self._inflight, bytes_max=self._body_bytes_max) as body:
            # What a slow line took isn't the server's time.
            call = replace(current_call(), deadline_s=time.monotonic() + self._request_s)
            try:
                with serving(call):
                    async with asyncio.timeout(self._request_s):
                        return await operation.run(request, body)
            except TimeoutError:
                late = f"not durable within {self._request_s:g} s; send the same again"
                raise RefusedError(503, late, headers={"retry-after": f"{_TIMEOUT_RETRY_S:g}"}) from None

    async def _refused(self, request: Request, door: Door, error: Exception) -> Answer:
        if isinstance(error, RefusedError):
            told = status_pb2.Status(
                code=_STATUS_OF.get(error.status, code_pb2.INVALID_ARGUMENT), message=error.sentence
            )
            answer = door.refuse(request, Refusal(error.status, error.sentence, told.SerializeToString()))
            headers = dict(error.headers)
        else:
            told = status.to_status(error)
            code = 413 if isinstance(error, RecordTooLargeError) else _CODES.get(status.code_of(error), _SERVER_ERROR)
            answer = door.refuse(request, Refusal(code, told.message, told.SerializeToString()))
            headers = {}
            retry_after_s = _retry_after_s(told)
            if retry_after_s is not None:
                headers["retry-after"] = str(math.ceil(retry_after_s))
        if isinstance(error, UnauthenticatedError):
            headers["www-authenticate"] = 'Basic realm="heimdall", Bearer realm="heimdall"'
        if isinstance(error, DrainingError) or (
            "connection" not in headers and not await pass_over(request, bytes_max=self._body_bytes_max)
        ):
            headers["connection"] = "close"
        return Answer(answer.status, answer.body, answer.content_type, (*answer.headers, *headers.items()))

    @staticmethod
    def _log(error: Exception, answer: Answer, request: Request, request_id: str, caller: str) -> None:
        fields: dict[str, Any] = {
            "request_id": request_id,
            "path": masked_text(request.path, addresses=True),  # a path may name an index, and an index anything
            "status": answer.status,
            "principal": caller,
            "peer": request.peer,
        }
        if isinstance(error, RefusedError):
            _LOG.info("request refused", extra={**fields, "problem": masked_text(error.sentence, addresses=True)})
            return
        fields["reason"] = status.reason_of(error)
        ours = answer.status >= _SERVER_ERROR and not isinstance(error, DrainingError)
        if ours or not isinstance(error, HeimdallError):
            fields["failure"] = failure_fields(status.leading_error(error))
            _LOG.error("request failed", extra=fields)
        else:
            _LOG.info("request refused", extra=fields)


def _retry_after_s(told: status_pb2.Status) -> float | None:
    info = error_details_pb2.RetryInfo()
    if any(detail.Unpack(info) for detail in told.details):
        return info.retry_delay.ToNanoseconds() / 1e9
    return None


async def _send(send: Send, answer: Answer, request_id: str) -> None:
    headers = [(REQUEST_ID_KEY, request_id), *answer.headers]
    if answer.content_type:
        headers.append(("content-type", answer.content_type))
    if answer.status != _NO_CONTENT:
        headers.append(("content-length", str(len(answer.body))))
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answer.body})
