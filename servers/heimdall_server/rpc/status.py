"""Errors of the domain as gRPC statuses: one table, and the only place that knows status codes.

A status carries exactly one `google.rpc.ErrorInfo` whose reason is in the catalogue of `heimdall.errors.v1`, and
`RetryInfo`, `BadRequest` or `QuotaFailure` where they apply. An error that isn't in the table is a bug: the caller
gets INTERNAL and a fixed sentence with the request id, under which the log has the detail.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf import duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from heimdall.errors.v1.reasons_pb2 import ErrorReason
from heimdall_server.domain import errors
from heimdall_server.rpc.calls import REQUEST_ID_KEY, find_call
from heimdall_server.rpc.status_texts import mask_details, masking_for

DOMAIN: Final = "heimdall"
RETRY_KEY: Final = "google.rpc.retryinfo-bin"
"""Trailer with the `RetryInfo` alone."""
DETAILS_KEY: Final = "grpc-status-details-bin"
STATUS_BYTES_MAX: Final = 4096
"""A whole status, encoded. In base64 it is a third more, and a client's limit on trailers is 8 KiB."""

_MESSAGE_CHARACTERS_MAX: Final = 400
_VALUE_CHARACTERS_MAX: Final = 400
_VIOLATIONS_MAX: Final = 16
_RETRY_S: Final = 1.0
"""When to come back after a failure whose end we can't estimate."""
_REASON_PREFIX: Final = "ERROR_REASON_"
_TOKEN_KEY: Final = "resume_token"  # noqa: S105 - a name, not a secret

_POINTED_KEY: Final = "pointed"

_E = TypeVar("_E", bound=errors.HeimdallError)
_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


class AbortingContext(Protocol):
    """The part of a servicer's context that ends a call."""

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
    ) -> NoReturn:
        """End the call with an error."""
        ...


@dataclass(frozen=True, slots=True)
class _Row:
    """How a class of errors is told to a client."""

    code: grpc.StatusCode
    reason: ErrorReason.ValueType
    sentence: Callable[[Any], str]
    metadata: Callable[[Any], Mapping[str, str]]
    details: Callable[[Any], Sequence[message.Message]]


def _row(
    kind: type[_E],
    code: grpc.StatusCode,
    reason: ErrorReason.ValueType,
    *,
    sentence: Callable[[_E], str] = str,
    metadata: Callable[[_E], Mapping[str, str]] = lambda _: {},
    details: Callable[[_E], Sequence[message.Message]] = lambda _: (),
) -> tuple[type[errors.HeimdallError], _Row]:
    """A row of the table; `sentence` is given where the error's own one names something internal."""
    return kind, _Row(code, reason, sentence, metadata, details)


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(max(0, round(seconds * 1e9)))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _retry_later(_: errors.HeimdallError) -> Sequence[message.Message]:
    return (_retry(_RETRY_S),)


def _retry_after(error: errors.OverloadedError) -> Sequence[message.Message]:
    return (_retry(error.retry_after_s),)


def _bad_request(*violations: tuple[str, str]) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[violation(field=path, description=rule) for path, rule in violations[:_VIOLATIONS_MAX]]
    )


def _quota(subject: str, description: str) -> error_details_pb2.QuotaFailure:
    violation = error_details_pb2.QuotaFailure.Violation(subject=_short(subject), description=_short(description))
    return error_details_pb2.QuotaFailure(violations=[violation])


def _short(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 1] + "…"


def _invalid(error: errors.InvalidArgumentError) -> Sequence[message.Message]:
    return (_bad_request((error.field, error.rule), *error.further),)


def _query_metadata(error: errors.QuerySyntaxError) -> Mapping[str, str]:
    return {"column": str(error.column + 1), "suggestion": error.suggestion, _POINTED_KEY: error.pointed()}


def _lagged_metadata(error: errors.StreamLaggedError) -> Mapping[str, str]:
    token = base64.b64encode(error.resume_token).decode()
    # A token that is cut is worse than none.
    return {_TOKEN_KEY: token} if len(token) <= STATUS_BYTES_MAX // 2 else {}


_C = grpc.StatusCode
_R = ErrorReason

TABLE: Final[Mapping[type[errors.HeimdallError], _Row]] = dict(
    (
        _row(errors.InvalidInputError, _C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_ARGUMENT),
        _row(
            errors.InvalidArgumentError,
            _C.INVALID_ARGUMENT,
            _R.ERROR_REASON_INVALID_ARGUMENT,
            details=_invalid,
        ),
        _row(
            errors.FormatError,
            _C.INVALID_ARGUMENT,
            _R.ERROR_REASON_FORMAT_INVALID,
            metadata=lambda error: {"format": error.format, "offset": str(error.offset)},
        ),
        _row(
            errors.QuerySyntaxError,
            _C.INVALID_ARGUMENT,
            _R.ERROR_REASON_QUERY_INVALID,
            metadata=_query_metadata,
            details=lambda error: (_bad_request(("question", str(error))),),
        ),
        _row(errors.TokenError, _C.INVALID_ARGUMENT, _R.ERROR_REASON_TOKEN_INVALID),
        _row(
            errors.RecordTooLargeError,
            _C.INVALID_ARGUMENT,
            _R.ERROR_REASON_RECORD_TOO_LARGE,
            metadata=lambda error: {"size_bytes": str(error.size_bytes), "limit_bytes": str(error.limit_bytes)},
        ),
        _row(
            errors.NotFoundError,
            _C.NOT_FOUND,
            _R.ERROR_REASON_NOT_FOUND,
            metadata=lambda error: {"kind": error.kind, "name": error.name},
        ),
        _row(errors.ConflictError, _C.FAILED_PRECONDITION, _R.ERROR_REASON_STREAM_PROTOCOL),
        _row(
            errors.OffsetConflictError,
            _C.FAILED_PRECONDITION,
            _R.ERROR_REASON_OFFSET_CONFLICT,
            metadata=lambda error: {"offset": str(error.offset)},
        ),
        _row(
            errors.OffsetGapError,
            _C.FAILED_PRECONDITION,
            _R.ERROR_REASON_OFFSET_GAP,
            metadata=lambda error: {"expected_offset": str(error.expected_offset), "offset": str(error.offset)},
        ),
        _row(
            errors.SourceFencedError,
            _C.ABORTED,
            _R.ERROR_REASON_SOURCE_FENCED,
            metadata=lambda error: {"epoch": str(error.epoch)},
        ),
        _row(errors.StreamProtocolError, _C.FAILED_PRECONDITION, _R.ERROR_REASON_STREAM_PROTOCOL),
        _row(
            errors.PermissionDeniedError,
            _C.PERMISSION_DENIED,
            _R.ERROR_REASON_PERMISSION_DENIED,
            metadata=lambda error: {"principal": error.principal, "permission": error.permission},
        ),
        _row(errors.UnauthenticatedError, _C.UNAUTHENTICATED, _R.ERROR_REASON_CERTIFICATE_REFUSED),
        _row(errors.OverloadedError, _C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_OVERLOADED, details=_retry_after),
        _row(errors.JournalFullError, _C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_JOURNAL_FULL, details=_retry_after),
        _row(errors.StoreBehindError, _C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_OVERLOADED, details=_retry_after),
        _row(
            errors.BudgetExceededError,
            _C.RESOURCE_EXHAUSTED,
            _R.ERROR_REASON_BUDGET_EXCEEDED,
            metadata=lambda error: {"budget": error.budget, "limit": str(error.limit)},
            details=lambda error: (_retry(error.retry_after_s), _quota(error.budget, f"limit {error.limit}")),
        ),
        _row(errors.DrainingError, _C.UNAVAILABLE, _R.ERROR_REASON_DRAINING, details=_retry_later),
        _row(
            errors.QueryTimeoutError,
            _C.DEADLINE_EXCEEDED,
            _R.ERROR_REASON_QUERY_TIMEOUT,
            metadata=lambda error: {"limit_s": f"{error.limit_s:g}"},
        ),
        _row(
            errors.DeadlineTooShortError,
            _C.DEADLINE_EXCEEDED,
            _R.ERROR_REASON_DEADLINE_TOO_SHORT,
            metadata=lambda error: {"needed_s": f"{error.needed_s:g}"},
        ),
        _row(
            errors.UnimplementedError,
            _C.UNIMPLEMENTED,
            _R.ERROR_REASON_UNIMPLEMENTED,
            metadata=lambda error: {"method": error.method},
        ),
        _row(
            errors.QueryCostError,
            _C.RESOURCE_EXHAUSTED,
            _R.ERROR_REASON_QUERY_TOO_EXPENSIVE,
            details=lambda error: (_quota("query cost", str(error)),),
        ),
        _row(errors.StreamLaggedError, _C.ABORTED, _R.ERROR_REASON_STREAM_LAGGED, metadata=_lagged_metadata),
        _row(
            errors.CorruptionError,
            _C.DATA_LOSS,
            _R.ERROR_REASON_CORRUPTION,
            sentence=lambda _: "stored bytes fail their checksum; the operator has the place in the server's log",
        ),
        _row(errors.ChainBrokenError, _C.DATA_LOSS, _R.ERROR_REASON_CORRUPTION),
        _row(
            errors.EtagMismatchError,
            _C.ABORTED,
            _R.ERROR_REASON_ETAG_MISMATCH,
            metadata=lambda error: {"etag": error.etag},
        ),
        _row(
            errors.OperationStateError,
            _C.FAILED_PRECONDITION,
            _R.ERROR_REASON_OPERATION_STATE,
            metadata=lambda error: {"operation_id": error.operation_id, "state": error.state},
        ),
        _row(
            errors.IntegrityError,
            _C.DATA_LOSS,
            _R.ERROR_REASON_INTEGRITY_FAILED,
            sentence=lambda error: (
                "a sealed value was changed or belongs elsewhere; "
                f"{error.suggestion or 'the operator has the place in the log'}"
            ),
        ),
        _row(errors.KeyDestroyedError, _C.NOT_FOUND, _R.ERROR_REASON_VALUE_ERASED),
        _row(
            errors.KeyMismatchError,
            _C.FAILED_PRECONDITION,
            _R.ERROR_REASON_MISCONFIGURED,
            sentence=lambda _: "the server's encryption key isn't that of its data; an operator must act",
        ),
        _row(
            errors.StoreError,
            _C.UNAVAILABLE,
            _R.ERROR_REASON_STORE_FAILED,
            sentence=lambda error: f"the store {error.store} failed; try again, the operator has the detail",
            metadata=lambda error: {"store": error.store},
            details=_retry_later,
        ),
        _row(
            errors.ConfigurationError,
            _C.FAILED_PRECONDITION,
            _R.ERROR_REASON_MISCONFIGURED,
            sentence=lambda _: "the server's configuration can't be used; an operator must act",
        ),
    )
)
"""Every class of errors. A class that isn't named takes the row of its nearest named parent."""

_BUG: Final = _row(
    errors.HeimdallError,
    _C.INTERNAL,
    _R.ERROR_REASON_INTERNAL,
    sentence=lambda _: "internal error; the server's log has the detail under the request id",
)[1]


def leading_error(error: BaseException) -> BaseException:
    """The error to tell: within a group (of a `TaskGroup`) the first that is one of ours, else the first."""
    leaves = _leaves(error)
    return next((leaf for leaf in leaves if isinstance(leaf, errors.HeimdallError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]


def is_mapped(error: BaseException) -> bool:
    """Whether the table has a row for it; otherwise it is a bug of ours."""
    return _row_of(type(leading_error(error))) is not _BUG


def reason_of(error: BaseException) -> str:
    """The reason in the catalogue, without its prefix: `OFFSET_CONFLICT`."""
    return _reason_name(_row_of(type(leading_error(error))).reason)


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an error."""
    return _row_of(type(leading_error(error))).code


def to_status(error: BaseException) -> status_pb2.Status:
    """The status of an error, for a message (`nack`, `cancelled`) or for the end of a call.

    Args:
        error: Any; what isn't ours becomes INTERNAL and nothing of it is told.

    Returns:
        At most 4 KiB, with exactly one `ErrorInfo`.
    """
    error = leading_error(error)
    row = _row_of(type(error))
    masked = masking_for(error)
    metadata = {
        key: value if key == _TOKEN_KEY else _short(shown)
        for key, value in row.metadata(error).items()
        # A text that says where in it something is wrong says nothing once it is another one.
        if value and ((shown := masked(value)) == value or key != _POINTED_KEY)
    }
    call = find_call()
    if row is _BUG and call is not None:
        metadata["request_id"] = call.request_id
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason=_reason_name(row.reason), metadata=metadata)
    sentence = masked(row.sentence(error)) or info.reason.replace("_", " ").lower()
    if len(sentence) > _MESSAGE_CHARACTERS_MAX:
        sentence = sentence[: _MESSAGE_CHARACTERS_MAX - 1] + "…"
    further = row.details(error)
    for one in further:
        mask_details(one, lambda text: _short(masked(text)))
    return _bounded(int(row.code.value[0]), sentence, info, further)


def ok_status() -> status_pb2.Status:
    """The status that says that nothing is wrong."""
    return status_pb2.Status(code=code_pb2.OK)


async def abort_with(context: AbortingContext, error: BaseException, *, request_id: str = "") -> NoReturn:
    """End a call with an error's status.

    Args:
        context: The servicer's context.
        error: Any.
        request_id: Sent back to the client; empty: that of the current call.

    Raises:
        grpc.aio.AbortError: Always; let it pass.
    """
    call = find_call()
    if not request_id and call is not None:
        request_id = call.request_id
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if request_id:
        trailers.append((REQUEST_ID_KEY, request_id))
    retry = error_details_pb2.RetryInfo()
    if any(detail.Unpack(retry) for detail in status.details):
        # OpenTelemetry's Python exporter looks here only.
        trailers.append((RETRY_KEY, retry.SerializeToString()))
    await context.abort(_BY_NUMBER[status.code], status.message, tuple(trailers))


def _row_of(kind: type[BaseException]) -> _Row:
    return next((TABLE[ancestor] for ancestor in kind.__mro__ if ancestor in TABLE), _BUG)


def _reason_name(reason: ErrorReason.ValueType) -> str:
    return str(ErrorReason.Name(reason)).removeprefix(_REASON_PREFIX)


def _bounded(
    code: int, sentence: str, info: error_details_pb2.ErrorInfo, further: Sequence[message.Message]
) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=sentence)
    for detail in (info, *further):
        status.details.add().Pack(detail)
    while status.ByteSize() > STATUS_BYTES_MAX and len(status.details) > 1:
        largest = max(range(1, len(status.details)), key=lambda index: status.details[index].ByteSize())
        del status.details[largest]
    if status.ByteSize() > STATUS_BYTES_MAX:
        info.metadata.clear()
        status.details[0].Pack(info)
    return status
