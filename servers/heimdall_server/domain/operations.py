"""Long work on personal data as a value: what it is, how far it is, and which changes of it are legal.

    running ──► done
       ├──────► failed        it may be asked for again, as another operation
       └──────► cancelled     where its kind can be stopped

What has ended never changes, but for the positions of a journal that was put back from a backup (`services/privacy/logic/restored.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from heimdall_server.domain.errors import OperationStateError


class OperationKind(enum.StrEnum):
    """What an operation does."""

    ROTATE_KEK = "rotate_kek"
    ROTATE_DEK = "rotate_dek"
    ROTATE_INDEX = "rotate_index"
    ERASE = "erase"
    DELETE = "delete"


class OperationState(enum.StrEnum):
    """How far an operation is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ErasureScope:
    """What an erasure concerns. Holds no value."""

    tokens: Sequence[str] = ()
    """Under all live epochs, `[class:word]`."""
    vault_value_count: int = 0
    record_count: int = 0
    survivor_count: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """A rotation, an erasure or a deletion. Holds no personal value: tokens, classes and counts only."""

    operation_id: str
    kind: OperationKind
    actor: str
    reason: str
    create_time_ns: int
    update_time_ns: int
    state: OperationState = OperationState.RUNNING
    stage: str = ""
    """What is being done, for a person."""
    done_count: int = 0
    total_count: int = 0
    """0: not known."""
    affected_count: int = 0
    problem: str = ""
    """Why it failed, or why it waits."""
    end_time_ns: int = 0
    inaccessible_time_ns: int = 0
    shredded_time_ns: int = 0
    scope: ErasureScope | None = None
    query: str = ""
    """Deletion: the filter, personal values in it replaced by tokens. It may hold a secret that is to be deleted: sealed where it is kept,
    and shown to nobody."""
    shown_query: str = ""
    """Deletion: the filter without what it asks for, for lists."""
    request_id: str = ""
    identity: str = ""
    """Digest of what was asked for: a repeat of a request id must ask for the same."""
    stop_requested: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What its kind was asked to do, as JSON values."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What its kind noted to go on from after a restart, and for the certificate, as JSON values. Of an erasure,
    `keys_destroyed`: a list of `{data_class, generation, destroyed_time_ns}`."""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state is not OperationState.RUNNING

    def changed(self, *, now_ns: int, **changes: Any) -> Operation:  # noqa: ANN401 - the fields above
        """The same, further on.

        Raises:
            OperationStateError: It has ended.
        """
        if self.ended:
            raise OperationStateError(self.operation_id, self.state.value, "it has ended and never changes")
        return replace(self, update_time_ns=max(now_ns, self.update_time_ns), **changes)

    def finished(self, state: OperationState, *, now_ns: int, problem: str = "", stage: str = "") -> Operation:
        """The same, at its end.

        Raises:
            OperationStateError: It has ended before.
        """
        end_ns = max(now_ns, self.update_time_ns)
        return self.changed(now_ns=now_ns, state=state, end_time_ns=end_ns, problem=problem, stage=stage or state.value)
