"""The tree of errors. Each names a condition; `str()` is the sentence that a person reads.

    HeimdallError
    ├── InvalidInputError          the caller must change the request
    │   ├── InvalidArgumentError       a field breaks a rule
    │   ├── FormatError                bytes that aren't the format they claim
    │   ├── QuerySyntaxError           text that isn't a query
    │   ├── TokenError                 a resume or page token that isn't ours or doesn't fit
    │   └── RecordTooLargeError        a record (or what can't be told from one) over the limit
    ├── NotFoundError              the named thing doesn't exist
    ├── ConflictError              the state of a source or stream forbids it
    │   ├── OffsetConflictError        same offset, other bytes
    │   ├── OffsetGapError             bytes between what we have and what was sent are missing
    │   ├── SourceFencedError          a newer stream took the source
    │   ├── StreamProtocolError        a message that may not come now
    │   ├── EtagMismatchError          somebody else changed it meanwhile
    │   └── OperationStateError        an operation that is too far, or not far enough
    ├── PermissionDeniedError      a known caller that may not
    ├── UnauthenticatedError       a caller we can't name
    ├── OverloadedError            try again later
    │   ├── JournalFullError           a required projection is behind, or the disk reserve is reached
    │   ├── StoreBehindError           the store hasn't taken in all that was acknowledged
    │   └── BudgetExceededError        memory, streams or a query's budget
    ├── DrainingError              this server is going away
    ├── QueryTimeoutError          the query ran out of its time
    ├── DeadlineTooShortError      it can't be done within the caller's deadline
    ├── UnimplementedError         no such method in this process
    ├── QueryCostError             the query would cost more than its budget
    ├── StreamLaggedError          a reader that fell behind
    ├── CorruptionError            stored bytes that fail their checksum
    │   └── ChainBrokenError           an entry of a hash chain that was changed, removed or put in
    ├── IntegrityError             a sealed value that was changed or belongs elsewhere
    ├── KeyDestroyedError          a value whose key is gone: it was erased
    ├── KeyMismatchError           another encryption key than the data's
    ├── StoreError                 an engine failed; the detail is for the log only
    └── ConfigurationError         configuration that can't be used

They are plain dataclasses, not frozen: Python sets `__traceback__` on them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class HeimdallError(Exception):
    """Root of what Heimdall raises on purpose."""


@dataclass(eq=False)
class InvalidInputError(HeimdallError):
    """The caller must change the request."""


@dataclass(eq=False)
class InvalidArgumentError(InvalidInputError):
    """A field of the request breaks a rule."""

    field: str
    """Path, as in `batch.next_offset`."""
    rule: str
    """What it must be."""
    further: tuple[tuple[str, str], ...] = ()
    """More of the same: (path, rule)."""

    def __str__(self) -> str:
        more = f" (and {len(self.further)} more)" if self.further else ""
        return f"{self.field}: {self.rule}{more}"


@dataclass(eq=False)
class FormatError(InvalidInputError):
    """Bytes that aren't the format they claim to be."""

    format: str
    problem: str
    offset: int = 0

    def __str__(self) -> str:
        return f"not {self.format} at byte {self.offset}: {self.problem}"


@dataclass(eq=False)
class QuerySyntaxError(InvalidInputError):
    """Text that isn't a query."""

    text: str
    column: int
    """Where in `text`, from 0, in characters."""
    problem: str
    suggestion: str = ""

    def __str__(self) -> str:
        hint = f": {self.suggestion}" if self.suggestion else ""
        return f"{self.problem}{hint} (column {self.column + 1})"

    def pointed(self) -> str:
        """The query with a caret under the problem, two lines."""
        line_start = self.text.rfind("\n", 0, self.column) + 1
        line = self.text[line_start:].split("\n", 1)[0]
        return f"{line}\n{' ' * (self.column - line_start)}^"


@dataclass(eq=False)
class TokenError(InvalidInputError):
    """A resume or page token that isn't ours, is damaged, or belongs to another request."""

    problem: str

    def __str__(self) -> str:
        return f"token can't be used: {self.problem}; start again without it"


@dataclass(eq=False)
class RecordTooLargeError(InvalidInputError):
    """A record over the limit."""

    size_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        return f"a record of {self.size_bytes} bytes is over the limit of {self.limit_bytes}"


@dataclass(eq=False)
class NotFoundError(HeimdallError):
    """The named thing doesn't exist, or not for this caller."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"no {self.kind} named {self.name!r}"


@dataclass(eq=False)
class ConflictError(HeimdallError):
    """The state of a source or stream forbids the request."""


@dataclass(eq=False)
class OffsetConflictError(ConflictError):
    """The same offset came again with other bytes."""

    source: str
    offset: int

    def __str__(self) -> str:
        return (
            f"source {self.source!r} already holds other bytes at offset {self.offset}; "
            "is this another file under the same name? use another source"
        )


@dataclass(eq=False)
class OffsetGapError(ConflictError):
    """Bytes between what is held and what was sent are missing."""

    source: str
    expected_offset: int
    offset: int

    def __str__(self) -> str:
        return (
            f"source {self.source!r} continues at offset {self.expected_offset}, not {self.offset}; resend from there"
        )


@dataclass(eq=False)
class SourceFencedError(ConflictError):
    """A newer stream took the source over."""

    source: str
    epoch: int

    def __str__(self) -> str:
        return (
            f"source {self.source!r} was opened by a newer stream (epoch {self.epoch}); "
            "only one stream may feed a source"
        )


@dataclass(eq=False)
class StreamProtocolError(ConflictError):
    """A message of a stream that may not come now."""

    problem: str

    def __str__(self) -> str:
        return self.problem


@dataclass(eq=False)
class PermissionDeniedError(HeimdallError):
    """A known caller that may not do this."""

    principal: str
    permission: str
    purpose: str = ""
    """What needs it, where the method alone doesn't say so: "searching for a personal value (email)"."""

    def __str__(self) -> str:
        needs = f", which {self.purpose} needs" if self.purpose else ""
        return (
            f"{self.principal} lacks the permission {self.permission!r}{needs}; ask the operator for a role that has it"
        )


@dataclass(eq=False)
class UnauthenticatedError(HeimdallError):
    """A caller that can't be named."""

    problem: str
    what: str = "client certificate"
    """By what the caller wanted to be known."""

    def __str__(self) -> str:
        return f"{self.what} refused: {self.problem}"


@dataclass(eq=False)
class OverloadedError(HeimdallError):
    """Nothing is wrong with the request; try again later."""

    retry_after_s: float

    def __str__(self) -> str:
        return f"overloaded; try again in {self.retry_after_s:g} s"


@dataclass(eq=False)
class JournalFullError(OverloadedError):
    """The journal may not grow: a required projection is behind, or the disk reserve is reached."""

    bound: str

    def __str__(self) -> str:
        return f"the journal reached {self.bound}; try again in {self.retry_after_s:g} s"


@dataclass(eq=False)
class StoreBehindError(OverloadedError):
    """The store hasn't taken in all that was acknowledged, and an answer that leaves some out would be wrong."""

    def __str__(self) -> str:
        return (
            "the store hasn't taken in all acknowledged records yet, and none may be left out here; "
            f"try again in {self.retry_after_s:g} s (`heimdall status` tells how far it is)"
        )


@dataclass(eq=False)
class BudgetExceededError(OverloadedError):
    """A limit on memory, streams or concurrent work is used up."""

    budget: str
    limit: int

    def __str__(self) -> str:
        return f"{self.budget} is used up (limit {self.limit}); try again in {self.retry_after_s:g} s"


@dataclass(eq=False)
class DrainingError(HeimdallError):
    """This server is shutting down."""

    def __str__(self) -> str:
        return "the server is shutting down; connect again"


@dataclass(eq=False)
class QueryTimeoutError(HeimdallError):
    """A query ran out of its time."""

    limit_s: float

    def __str__(self) -> str:
        return f"the query took longer than {self.limit_s:g} s; narrow its time range or raise the limit"


@dataclass(eq=False)
class DeadlineTooShortError(HeimdallError):
    """It can't be done within the caller's deadline; nothing was begun."""

    needed_s: float
    """The server's estimate."""

    def __str__(self) -> str:
        return (
            f"this would take about {self.needed_s:g} s, longer than the call's deadline; try again with a longer one"
        )


@dataclass(eq=False)
class UnimplementedError(HeimdallError):
    """No such method, or its service doesn't run in this process."""

    method: str
    missing: str = ""
    """Where what is missing isn't a method: what it is, and what to do."""

    def __str__(self) -> str:
        return self.missing or f"no method {self.method!r} here; is its service among those that this process runs?"


@dataclass(eq=False)
class QueryCostError(HeimdallError):
    """A query would cost more than its budget."""

    problem: str

    def __str__(self) -> str:
        return self.problem


@dataclass(eq=False)
class StreamLaggedError(HeimdallError):
    """A reader that fell behind its stream."""

    bound: str
    resume_token: bytes = b""

    def __str__(self) -> str:
        return f"the reader fell behind ({self.bound}); resume with the token"


@dataclass(eq=False)
class CorruptionError(HeimdallError):
    """Stored bytes that fail their checksum or can't be decrypted."""

    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


@dataclass(eq=False)
class ChainBrokenError(CorruptionError):
    """An entry of a hash chain was changed, removed or put in. `place` names the chain and the first such entry, nothing of it."""


@dataclass(eq=False)
class EtagMismatchError(ConflictError):
    """Somebody else changed the thing after the caller read it."""

    kind: str
    etag: str
    """As it is now."""

    def __str__(self) -> str:
        return f"the {self.kind} was changed meanwhile; read it again and decide anew"


@dataclass(eq=False)
class OperationStateError(ConflictError):
    """An operation is in a state that doesn't allow what was asked."""

    operation_id: str
    state: str
    problem: str

    def __str__(self) -> str:
        return f"operation {self.operation_id} is {self.state}: {self.problem}"


@dataclass(eq=False)
class IntegrityError(HeimdallError):
    """A sealed value that was changed, or belongs to another token, class or key."""

    place: str
    """Which, without anything of the value."""
    suggestion: str = ""
    """What whoever asked may do about it; told to them, other than the place."""

    def __str__(self) -> str:
        told = f"{self.place}: the sealed value was changed or belongs elsewhere"
        return f"{told}; {self.suggestion}" if self.suggestion else told


@dataclass(eq=False)
class KeyDestroyedError(HeimdallError):
    """The data key of a sealed value was destroyed: nobody can read it any more."""

    data_class: str
    generation: int

    def __str__(self) -> str:
        return "the value was erased"


@dataclass(eq=False)
class KeyMismatchError(HeimdallError):
    """The encryption key isn't the one the data was written with, or is missing."""

    expected_fingerprint: str
    found_fingerprint: str

    def __str__(self) -> str:
        found = self.found_fingerprint or "none"
        return (
            f"the data was written under key {self.expected_fingerprint}, the configured key is {found}; "
            "restore the right key, no new one is made"
        )


@dataclass(eq=False)
class StoreError(HeimdallError):
    """An engine failed. The detail is for the log; a caller is told which store only."""

    store: str
    detail: str

    def __str__(self) -> str:
        return f"{self.store} failed: {self.detail}"


@dataclass(eq=False)
class ConfigurationError(HeimdallError):
    """Configuration that can't be used; all problems at once."""

    problems: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.problems)
