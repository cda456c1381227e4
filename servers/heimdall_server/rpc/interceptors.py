"""The one interceptor: what happens around each call of each service, for all four shapes of call.

    request id → identity → admission → permission → message → handler → status → metrics, log

Streams are read and written from here, in the call's own task: an error that is raised while a stream is iterated is
mapped like any other, and when the caller hangs up the handler's generator is closed at once. A servicer reads its
requests from the iterator, never with `context.read`, and raises domain errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import grpc

from heimdall.types.v1.method_policy_pb2 import MethodPolicy
from heimdall_server.domain.errors import UnimplementedError
from heimdall_server.ports.audit import AuditLog
from heimdall_server.rpc import messages, metrics, status
from heimdall_server.rpc.admission import Admission
from heimdall_server.rpc.auditing import CallAudit
from heimdall_server.rpc.calls import REQUEST_ID_KEY, Call, request_id_from, serving
from heimdall_server.rpc.foreign import ANY_AUTHENTICATED, UNINTERRUPTED
from heimdall_server.rpc.identity import IdentityVerifier
from heimdall_server.rpc.limits import InflightBytes, RpcLimits
from heimdall_server.rpc.logs import failure_fields
from heimdall_server.rpc.permissions import Authorizer

_LOG: Final = logging.getLogger(__name__)
_AUDIT: Final = logging.getLogger("heimdall.audit")

_T = TypeVar("_T")
_Context: TypeAlias = Any
_Handler: TypeAlias = Any
_Message: TypeAlias = Any
_Body: TypeAlias = Callable[[], Awaitable[_T]]

_RESERVED_FROM_BYTES: Final = 64 * 1024
"""Unary requests that are smaller don't count against the budget of bytes in flight."""
_OUR_FAULT: Final = frozenset({"INTERNAL", "CORRUPTION", "STORE_FAILED", "MISCONFIGURED"})
"""Reasons that an operator must look into; the caller isn't told more."""
_WARNED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


@dataclass(frozen=True, slots=True)
class _Route:
    """A method, as the interceptor sees it."""

    name: str
    """`heimdall.query.v1.QueryService/Search`."""
    service: str
    method: str
    metrics: metrics.MethodMetrics
    policy: MethodPolicy
    handler: _Handler | None
    streaming: bool

    @property
    def labels(self) -> tuple[str, str]:
        """For metrics."""
        return self.service, self.method


class CallInterceptor(grpc.aio.ServerInterceptor):
    """See the module."""

    def __init__(
        self,
        *,
        policies: Mapping[str, MethodPolicy],
        verifier: IdentityVerifier,
        authorizer: Authorizer,
        admission: Admission,
        limits: RpcLimits,
        inflight: InflightBytes,
        audit: AuditLog | None = None,
        audits_itself: Collection[str] = (),
    ) -> None:
        self._audit = CallAudit(audit, audits_itself)
        self._authorizer = authorizer
        self._policies = policies
        self._verifier = verifier
        self._admission = admission
        self._limits = limits
        self._inflight = inflight
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Answer with the wrapped handler of the method."""
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            name = path.removeprefix("/")
            policy = self._policies.get(name)
            if handler is None or policy is None:
                # Not remembered: callers can make up any number of names.
                return self._refuse_unknown(name)
            wrapped = self._wrapped[path] = self._wrap(name, policy, handler)
        return wrapped

    def _wrap(self, name: str, policy: MethodPolicy, handler: _Handler) -> grpc.RpcMethodHandler[Any, Any]:
        service, _, method = name.rpartition("/")
        streaming = bool(handler.request_streaming or handler.response_streaming)
        meters = metrics.MethodMetrics(service, method)
        route = _Route(name, service, method, meters, policy, handler, streaming)
        serializer = handler.response_serializer

        async def unary_unary(raw: bytes, context: _Context) -> _Message:
            return await self._serve(route, context, lambda: self._with_request(route, raw, respond(context)))

        async def stream_unary(raws: AsyncIterator[bytes], context: _Context) -> _Message:
            return await self._serve(route, context, lambda: respond(context)(_Requests(self, route, raws)))

        async def unary_stream(raw: bytes, context: _Context) -> None:
            await self._serve(route, context, lambda: self._with_request(route, raw, stream(context)))

        async def stream_stream(raws: AsyncIterator[bytes], context: _Context) -> None:
            await self._serve(route, context, lambda: stream(context)(_Requests(self, route, raws)))

        def respond(context: _Context) -> Callable[[Any], Awaitable[Any]]:
            function = handler.stream_unary if handler.request_streaming else handler.unary_unary
            return lambda request: function(request, context)

        def stream(context: _Context) -> Callable[[Any], Awaitable[None]]:
            function = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return lambda request: _write_all(route, function(request, context), context)

        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream_stream, response_serializer=serializer)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(stream_unary, response_serializer=serializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(unary_stream, response_serializer=serializer)
        return grpc.unary_unary_rpc_method_handler(unary_unary, response_serializer=serializer)

    def _refuse_unknown(self, name: str) -> grpc.RpcMethodHandler[Any, Any]:
        policy = MethodPolicy(permission=ANY_AUTHENTICATED)
        unknown = metrics.UNKNOWN
        meters = metrics.MethodMetrics(unknown, unknown)
        route = _Route(name[:128], unknown, unknown, meters, policy, None, streaming=False)

        async def refuse(_: AsyncIterator[bytes], context: _Context) -> None:
            async def body() -> None:
                raise UnimplementedError(route.name)

            await self._serve(route, context, body)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _serve(self, route: _Route, context: _Context, body: _Body[_T]) -> _T:
        started_s = time.perf_counter()
        metadata = {key: value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY}
        request_id = request_id_from(metadata.get(REQUEST_ID_KEY))
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        route.metrics.in_flight.inc()
        code = grpc.StatusCode.OK
        error: BaseException | None = None
        with contextlib.ExitStack() as stack:
            try:
                self._enter(route, context, request_id, stack)
                if route.policy.audited and route.streaming:
                    _AUDIT.info("stream opened", extra={"method": route.name})
                if route.handler is not None and route.handler.request_streaming:
                    await self._audit.allowed(route.name, route.policy)
                return await body()
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                if context.time_remaining() == 0:
                    code = grpc.StatusCode.DEADLINE_EXCEEDED
                raise
            except grpc.aio.BaseError:
                # The servicer ended the call itself, or the connection is gone.
                code = context.code() or grpc.StatusCode.UNAVAILABLE
                raise
            except Exception as raised:  # noqa: BLE001 - the one place that maps whatever was raised
                error = await self._audit.failed(route.name, route.policy, _meant(raised, route))
                code = status.code_of(error)
                return await status.abort_with(context, error, request_id=request_id)
            finally:
                duration_s = time.perf_counter() - started_s
                route.metrics.in_flight.dec()
                route.metrics.count(code.name)
                route.metrics.duration.observe(duration_s)
                if route.policy.audited or code is not grpc.StatusCode.OK:
                    fields = {
                        "request_id": request_id,
                        "method": route.name,
                        "code": code.name,
                        "duration_s": round(duration_s, 6),
                        "peer": context.peer(),
                    }
                    _log(route, code, error, fields)

    def _enter(self, route: _Route, context: _Context, request_id: str, stack: contextlib.ExitStack) -> None:
        peer = context.peer()
        principal = self._verifier.principal_of(context.auth_context(), peer=peer)
        principal = self._authorizer.with_roles(principal)
        remaining_s = context.time_remaining()
        deadline_s = None if remaining_s is None else time.monotonic() + remaining_s
        stack.enter_context(serving(Call(principal, request_id, route.name, peer, deadline_s)))
        self._authorizer.check(principal, route.policy)
        uninterrupted = route.service in UNINTERRUPTED
        stack.enter_context(
            self._admission.admit(principal.uri, streaming=route.streaming, uninterrupted=uninterrupted)
        )

    async def _with_request(self, route: _Route, raw: bytes, use: Callable[[Any], Awaitable[_T]]) -> _T:
        """Read a unary request and use it; its bytes count against the budget meanwhile."""
        size = len(raw)
        if messages.is_compressed(raw):
            size = messages.inflated_size(raw, bytes_max=self._limits.message_inflated_bytes_max)
        with contextlib.ExitStack() as stack:
            if size >= _RESERVED_FROM_BYTES:
                stack.enter_context(self._inflight.try_acquire(size))
            if messages.is_compressed(raw):
                raw = await messages.inflate(raw, size=size)
            request = messages.parse(raw, _deserializer(route))
            await self._audit.allowed(route.name, route.policy, request)
            return await use(request)

    async def inflate(self, route: _Route, raw: bytes) -> _Message:
        """A message of a request stream that came compressed, checked."""
        size = messages.inflated_size(raw, bytes_max=self._limits.message_inflated_bytes_max)
        with await self._inflight.acquire(size):
            return messages.parse(await messages.inflate(raw, size=size), _deserializer(route))


class _Requests:
    """The checked messages of a request stream. Whoever keeps one reserves its bytes (`InflightBytes`)."""

    def __init__(self, interceptor: CallInterceptor, route: _Route, raws: AsyncIterator[bytes]) -> None:
        self._interceptor = interceptor
        self._route = route
        self._raws = aiter(raws)
        self._received = metrics.STREAM_MESSAGES.labels(*route.labels, "received")

    def __aiter__(self) -> AsyncIterator[_Message]:
        return self

    async def __anext__(self) -> _Message:
        raw = await anext(self._raws)
        self._received.inc()
        if not messages.is_compressed(raw):
            return messages.parse(raw, _deserializer(self._route))
        return await self._interceptor.inflate(self._route, raw)


async def _write_all(route: _Route, responses: Any, context: _Context) -> None:  # noqa: ANN401 - either of two forms
    if inspect.isawaitable(responses):
        # A servicer that writes by the context itself.
        await responses
        return
    sent = metrics.STREAM_MESSAGES.labels(*route.labels, "sent")
    async with contextlib.AsyncExitStack() as stack:
        if hasattr(responses, "aclose"):
            stack.push_async_callback(responses.aclose)
        async for response in responses:
            await context.write(response)
            sent.inc()


def _deserializer(route: _Route) -> Callable[[bytes], Any] | None:
    return None if route.handler is None else route.handler.request_deserializer


def _meant(raised: BaseException, route: _Route) -> BaseException:
    leading = status.leading_error(raised)
    if isinstance(leading, NotImplementedError):
        # The generated base class of a servicer raises it for what the servicer leaves out.
        return UnimplementedError(route.name)
    return raised


def _log(route: _Route, code: grpc.StatusCode, error: BaseException | None, fields: dict[str, Any]) -> None:
    if route.policy.audited:
        _AUDIT.info("call", extra=fields)
    if code is grpc.StatusCode.OK:
        return
    if code is grpc.StatusCode.CANCELLED:
        _LOG.debug("call cancelled", extra=fields)
        return
    level = logging.WARNING if code in _WARNED else logging.INFO
    if error is not None:
        fields["reason"] = status.reason_of(error)
        if fields["reason"] in _OUR_FAULT:
            fields["failure"] = failure_fields(status.leading_error(error))
            level = logging.ERROR
    _LOG.log(level, "call failed", extra=fields)
