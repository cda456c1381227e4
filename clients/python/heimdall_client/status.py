"""gRPC statuses to the SDK's errors: the one place that reads status details and gRPC's own wording."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from heimdall_client import errors

_Detail = TypeVar("_Detail", bound=Message)

DOMAIN: Final = "heimdall"
DETAILS_KEY: Final = "grpc-status-details-bin"
REQUEST_ID_KEY: Final = "x-request-id"

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_BY_CODE: Final[dict[grpc.StatusCode, type[errors.RpcError]]] = {
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnimplementedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
}
"""For statuses without a reason of ours."""


def from_status(status: status_pb2.Status, *, request_id: str = "") -> errors.RpcError:
    """Error of a status that travelled in a message (`nack`, `cancelled`).

    Args:
        status: Not OK.
        request_id: Of the call.
    """
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, status, request_id)


def from_call(error: grpc.aio.AioRpcError, *, address: str = "") -> errors.RpcError:
    """Error of a call that ended with a status.

    Args:
        error: As grpc raised it.
        address: Where the client connects, for the sentence.
    """
    trailing = list(error.trailing_metadata() or ())
    request_id = str(_first(trailing, REQUEST_ID_KEY) or "")
    details = _first(trailing, DETAILS_KEY)
    status = status_pb2.Status()
    if isinstance(details, bytes):
        try:
            status.ParseFromString(details)
        except DecodeError:
            status = status_pb2.Status()  # the plain code and message still say what happened
    if not status.details and error.code() is grpc.StatusCode.UNAVAILABLE:
        return unavailable(error.details() or "", address=address)
    return _error(error.code(), error.details() or "", status, request_id)


def is_ok(status: status_pb2.Status) -> bool:
    """Whether a status in a message says that nothing went wrong."""
    return status.code == code_pb2.OK


def unavailable(details: str, *, address: str) -> errors.UnavailableError:
    """Say in words why no server could be reached.

    With TLS 1.3 a client learns only after its own handshake that the server refused its certificate: the
    connection is closed, and gRPC knows no more than that.

    Args:
        details: gRPC's wording.
        address: Where the client connects.
    """
    where = address or "the server"
    lower = details.lower()
    kind: type[errors.UnavailableError] = errors.UnavailableError
    if "hostname verification" in lower or "no match found for server name" in lower:
        kind = errors.HandshakeError
        text = f"the server's certificate isn't made out to {where}: use an address that it names, or issue another one"
    elif "security handshaker" in lower:
        kind = errors.HandshakeError
        text = "the client's certificate files can't be used: check ca_file, cert_file and key_file"
    elif "certificate_verify_failed" in lower:
        kind = errors.HandshakeError
        text = (
            f"the certificate of {where} can't be verified against ca_file: is this the right server, and the CA that "
            f"signed its certificate? ({_last_error(details)})"
        )
    elif "health check call failed" in lower:
        # The server answers, but ends even the health check that gRPC makes first, and gRPC keeps its words to itself.
        # Nearly always its identity layer refused the certificate. A budget of calls that is used up looks the same
        # and passes, so this isn't a `HandshakeError`, after which nothing is tried again.
        text = "the server refuses this certificate, or its holder has too many calls open; its log says which"
    elif "handshake" in lower or "socket closed" in lower or "connection reset" in lower:
        kind = errors.HandshakeError
        text = (
            f"{where} closed the connection: it went away, or it refused or could not verify the client's certificate "
            "(missing, expired, or signed by another CA); the server's log says which; "
            "`heimdall certs issue` makes a new one"
        )
    elif "connection refused" in lower:
        text = f"nothing listens at {where}: is the server up? `make up` starts one"
    elif "resolving" in lower or "resolution" in lower:
        text = f"the name in {where} can't be resolved"
    elif "unhealthy" in lower:
        text = f"the server at {where} is up but says that it isn't healthy yet; try again shortly"
    else:
        text = f"{where} can't be reached: {_last_error(details)}"
    return kind(grpc.StatusCode.UNAVAILABLE, text)


def _error(code: grpc.StatusCode, message: str, status: status_pb2.Status, request_id: str) -> errors.RpcError:
    reason = ""
    metadata: dict[str, str] = {}
    retry_after_s: float | None = None
    violations: list[errors.FieldViolation] = []
    for detail in status.details:
        if info := _unpacked(detail, error_details_pb2.ErrorInfo):
            if info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif retry := _unpacked(detail, error_details_pb2.RetryInfo):
            retry_after_s = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
        elif bad := _unpacked(detail, error_details_pb2.BadRequest):
            violations += [errors.FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif quota := _unpacked(detail, error_details_pb2.QuotaFailure):
            violations += [errors.FieldViolation(v.subject, v.description) for v in quota.violations]
        elif request := _unpacked(detail, error_details_pb2.RequestInfo):
            request_id = request_id or request.request_id
    kind = errors.BY_REASON.get(reason) if reason else _BY_CODE.get(code)
    return (kind or errors.RpcError)(
        code=code,
        message=message,
        reason=reason,
        retry_after_s=retry_after_s,
        field_violations=tuple(violations),
        metadata=metadata,
        request_id=request_id or metadata.get("request_id", ""),
    )


def _unpacked(detail: any_pb2.Any, kind: type[_Detail]) -> _Detail | None:
    message = kind()
    return message if detail.Unpack(message) else None


def _first(metadata: Iterable[Any], key: str) -> str | bytes | None:
    for name, value in metadata:
        if name == key and isinstance(value, str | bytes):
            return value
    return None


def _last_error(details: str) -> str:
    """The end of gRPC's sentence, which is the part that differs."""
    return details.rpartition("last error: ")[2].removesuffix(": OK")
