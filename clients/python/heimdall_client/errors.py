"""What the SDK raises. Each class names a condition; `str()` is the sentence that a person reads.

    HeimdallError
    ├── ConfigError                 the connection's configuration can't be used
    ├── MissingLibraryError         an optional library isn't installed
    ├── ClosedError                 the client or ingester was closed
    ├── InputError                  what is to be ingested can't be read
    ├── SourceMovedError            the server's place in a source doesn't fit what the ingester holds
    ├── GaveUpError                 no progress for longer than allowed; `last` is why
    ├── StalledError                a stream is open, but the other side says nothing
    └── RpcError                    a status from the server, or from the way there
        ├── UnavailableError            no server could be reached
        │   ├── HandshakeError              TLS: one side refused the other's certificate
        │   ├── DrainingError               DRAINING
        │   └── StoreFailedError            STORE_FAILED
        ├── DeadlineExceededError       the call's own deadline passed
        └── one a reason of the catalogue (`heimdall.errors.v1.ErrorReason`), listed in `BY_REASON`

A reason that this version doesn't know becomes an `RpcError` with that reason.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc

__all__ = [
    "BY_REASON",
    "BudgetExceededError",
    "CertificateRefusedError",
    "ClosedError",
    "ConfigError",
    "CorruptionError",
    "DeadlineExceededError",
    "DeadlineTooShortError",
    "DrainingError",
    "EtagMismatchError",
    "FieldViolation",
    "FormatInvalidError",
    "GaveUpError",
    "HandshakeError",
    "HeimdallError",
    "InputError",
    "IntegrityFailedError",
    "InternalError",
    "InvalidArgumentError",
    "JournalFullError",
    "MisconfiguredError",
    "MissingLibraryError",
    "NotFoundError",
    "OffsetConflictError",
    "OffsetGapError",
    "OperationStateError",
    "OverloadedError",
    "PermissionDeniedError",
    "QueryInvalidError",
    "QueryTimeoutError",
    "QueryTooExpensiveError",
    "RecordTooLargeError",
    "RpcError",
    "SourceFencedError",
    "SourceMovedError",
    "StalledError",
    "StoreFailedError",
    "StreamLaggedError",
    "StreamProtocolError",
    "TokenInvalidError",
    "UnavailableError",
    "UnimplementedError",
    "ValueErasedError",
]


@dataclass(eq=False)
class HeimdallError(Exception):
    """Root of what the SDK raises on purpose."""


@dataclass(eq=False)
class ConfigError(HeimdallError):
    """The connection's configuration can't be used; all problems at once."""

    problems: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.problems)


@dataclass(eq=False)
class MissingLibraryError(HeimdallError):
    """An optional library isn't installed."""

    library: str

    def __str__(self) -> str:
        return f"{self.library} isn't installed; `pip install {self.library}`"


@dataclass(eq=False)
class ClosedError(HeimdallError):
    """The client, ingester or stream was closed."""

    what: str

    def __str__(self) -> str:
        return f"the {self.what} is closed"


@dataclass(eq=False)
class InputError(HeimdallError):
    """What is to be ingested can't be read; what came before `offset` was sent."""

    name: str
    problem: str
    offset: int = 0

    def __str__(self) -> str:
        where = f" (after {self.offset:,} bytes)" if self.offset else ""
        return f"{self.name}: {self.problem}{where}"


@dataclass(eq=False)
class SourceMovedError(HeimdallError):
    """The server's place in a source doesn't fit what the ingester still holds."""

    source: str
    server_offset: int
    held_from: int
    held_to: int

    def __str__(self) -> str:
        if self.server_offset < self.held_from:
            return (
                f"source {self.source!r}: the server wants offset {self.server_offset}, but everything before "
                f"{self.held_from} was acknowledged and is no longer held; is this another server, or was its data lost?"
            )
        return (
            f"source {self.source!r}: the server is at offset {self.server_offset}, past the {self.held_to} that were "
            "written here; does something else feed the same source?"
        )


@dataclass(eq=False)
class StalledError(HeimdallError):
    """A stream is open, but the other side says nothing."""

    silent_s: float

    def __str__(self) -> str:
        return f"the server said nothing for {self.silent_s:g} s"


@dataclass(eq=False)
class GaveUpError(HeimdallError):
    """No progress for longer than allowed."""

    what: str
    after_s: float
    last: Exception

    def __str__(self) -> str:
        return f"{self.what} made no progress for {self.after_s:.0f} s; the last problem was: {self.last}"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that breaks a rule."""

    field: str
    """Path, as in `batch.next_offset`."""
    description: str


@dataclass(eq=False)
class RpcError(HeimdallError):
    """A status from the server, or from the way there."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    """Name from the catalogue without prefix (`JOURNAL_FULL`); empty: not from a Heimdall server."""
    retry_after_s: float | None = None
    """The server asks to wait that long and to send the same again."""
    field_violations: tuple[FieldViolation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of `ErrorInfo`: what the reason's entry in the catalogue says."""
    request_id: str = ""
    """The server's log has the call under this id."""

    def __str__(self) -> str:
        lines = [self.message or self.code.name.lower()]
        lines += [
            f"  {violation.field}: {violation.description}"
            for violation in self.field_violations
            if violation.description not in self.message
        ]
        notes = []
        if self.retry_after_s is not None and "try again in" not in self.message:
            notes.append(f"try again in {self.retry_after_s:g} s")
        if self.request_id:
            notes.append(f"request {self.request_id}")
        return "\n".join(lines) + (f" ({', '.join(notes)})" if notes else "")

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later.

        True where no server could be reached, where the server says when to come back, and where the transport
        broke under the call (a status that no Heimdall server made).
        """
        if self.retry_after_s is not None or self.code is grpc.StatusCode.UNAVAILABLE:
            return True
        return not self.reason and self.code in _TRANSPORT_CODES


_TRANSPORT_CODES: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})


class UnavailableError(RpcError):
    """No server could be reached, or it went away."""


class HandshakeError(UnavailableError):
    """TLS: one side refused the other's certificate."""


class DrainingError(UnavailableError):
    """The server is going away; connect again."""


class StoreFailedError(UnavailableError):
    """A store behind the server failed; metadata `store`."""


class DeadlineExceededError(RpcError):
    """The call's own deadline passed."""


class InvalidArgumentError(RpcError):
    """A field of the request breaks a rule; `field_violations` say which."""


class FormatInvalidError(RpcError):
    """The bytes aren't the format they claim."""


class QueryInvalidError(RpcError):
    """The text isn't a query."""

    @property
    def column(self) -> int | None:
        """Where in the query, in characters from 1."""
        text = self.metadata.get("column", "")
        return int(text) if text.isdecimal() else None

    @property
    def suggestion(self) -> str:
        """What might have been meant, or an empty string."""
        return self.metadata.get("suggestion", "")

    @property
    def pointed(self) -> str:
        """The query with a caret under the problem, two lines, or an empty string."""
        return self.metadata.get("pointed", "")

    def __str__(self) -> str:
        sentence = super().__str__()
        return f"{sentence}\n{self.pointed}" if self.pointed else sentence


class TokenInvalidError(RpcError):
    """A resume or page token is damaged or belongs to another request; start again without it."""


class RecordTooLargeError(RpcError):
    """A record is over the limit."""


class NotFoundError(RpcError):
    """The named thing doesn't exist."""


class OffsetConflictError(RpcError):
    """The source already holds other bytes at this offset; use another source."""


class OffsetGapError(RpcError):
    """Bytes are missing between what the server has and what was sent."""

    @property
    def expected_offset(self) -> int | None:
        """Where to resend from, if the server said so."""
        text = self.metadata.get("expected_offset", "")
        return int(text) if text.isdecimal() else None


class SourceFencedError(RpcError):
    """A newer stream feeds this source; stop, or open again to take it back."""


class PermissionDeniedError(RpcError):
    """The caller's roles don't allow it; ask the operator."""


class CertificateRefusedError(RpcError):
    """The client certificate isn't accepted; get another one."""


class OverloadedError(RpcError):
    """Nothing is wrong with the request; wait `retry_after_s` and send it again."""


class JournalFullError(OverloadedError):
    """The journal may not grow for now."""


class BudgetExceededError(OverloadedError):
    """A budget of memory, streams or work is used up."""


class QueryTimeoutError(RpcError):
    """The query ran out of its time; narrow it or raise the limit."""


class QueryTooExpensiveError(RpcError):
    """The query would cost more than its budget; narrow it."""


class StreamLaggedError(RpcError):
    """The reader fell behind; resume with the token."""

    @property
    def resume_token(self) -> bytes:
        """Where to go on, or empty."""
        try:
            return base64.b64decode(self.metadata.get("resume_token", ""))
        except binascii.Error:
            return b""


class CorruptionError(RpcError):
    """Stored bytes fail their checksum; the operator has the place in the log."""


class MisconfiguredError(RpcError):
    """The server's key or configuration can't be used; an operator must act."""


class StreamProtocolError(RpcError):
    """A message came that isn't allowed in the stream's state."""


class IntegrityFailedError(RpcError):
    """A sealed value was changed or belongs elsewhere; the operator has the place in the log."""


class ValueErasedError(RpcError):
    """The value was erased: nobody can read it any more."""


class EtagMismatchError(RpcError):
    """Somebody else changed it meanwhile; read it again and decide anew."""


class OperationStateError(RpcError):
    """The operation's state doesn't allow it."""


class InternalError(RpcError):
    """A bug in the server; its log has the detail under the request id."""


class DeadlineTooShortError(RpcError):
    """The server couldn't do it within the caller's deadline; try again with a longer one."""


class UnimplementedError(RpcError):
    """No such method, or its service doesn't run in that process."""


BY_REASON: Final[dict[str, type[RpcError]]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "FORMAT_INVALID": FormatInvalidError,
    "QUERY_INVALID": QueryInvalidError,
    "TOKEN_INVALID": TokenInvalidError,
    "RECORD_TOO_LARGE": RecordTooLargeError,
    "NOT_FOUND": NotFoundError,
    "OFFSET_CONFLICT": OffsetConflictError,
    "OFFSET_GAP": OffsetGapError,
    "SOURCE_FENCED": SourceFencedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "CERTIFICATE_REFUSED": CertificateRefusedError,
    "OVERLOADED": OverloadedError,
    "JOURNAL_FULL": JournalFullError,
    "BUDGET_EXCEEDED": BudgetExceededError,
    "DRAINING": DrainingError,
    "QUERY_TIMEOUT": QueryTimeoutError,
    "QUERY_TOO_EXPENSIVE": QueryTooExpensiveError,
    "STREAM_LAGGED": StreamLaggedError,
    "CORRUPTION": CorruptionError,
    "STORE_FAILED": StoreFailedError,
    "MISCONFIGURED": MisconfiguredError,
    "STREAM_PROTOCOL": StreamProtocolError,
    "INTERNAL": InternalError,
    "DEADLINE_TOO_SHORT": DeadlineTooShortError,
    "UNIMPLEMENTED": UnimplementedError,
    "INTEGRITY_FAILED": IntegrityFailedError,
    "VALUE_ERASED": ValueErasedError,
    "ETAG_MISMATCH": EtagMismatchError,
    "OPERATION_STATE": OperationStateError,
}
"""Every reason of the catalogue (a test walks both ways)."""
