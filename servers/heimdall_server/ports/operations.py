"""The ledger: where operations and the versions of the privacy policy are kept, append-only and hash-chained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from heimdall_server.domain.operations import Operation


class OperationLog(Protocol):
    """Where operations are kept.

    Guarantees: `write` returns when the operation, as it is then, is durable; of an operation the last one written counts. Writes
    are serialised, in the order of the calls.
    """

    async def load(self) -> Sequence[Operation]:
        """Every operation as it was written last, the oldest first.

        Raises:
            CorruptionError: The ledger was changed.
            StoreError: It can't be read.
        """
        ...

    async def write(self, operation: Operation) -> None:
        """Keep an operation as it is.

        Raises:
            StoreError: It couldn't be made durable: what it says must not be acted on.
        """
        ...


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One line of a privacy policy, as text; globs as the policy knows them."""

    action: str
    data_class: str = "*"
    source: str = "*"
    field: str = "*"


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A privacy policy that was put in force."""

    version: int
    """From 1; records name it."""
    rules: Sequence[PolicyRule]
    changed_by: str
    """URI of a certificate, or `configuration`."""
    change_time_ns: int
    reason: str = ""
    request_id: str = ""


class PolicyLog(Protocol):
    """Where the versions of the policy are kept. Guarantees as `OperationLog`."""

    def read(self) -> AsyncIterator[PolicyVersion]:
        """Every version, in the order in which they were put in force.

        Raises:
            CorruptionError: The ledger was changed.
            StoreError: It can't be read.
        """
        ...

    async def append(self, version: PolicyVersion) -> None:
        """Keep a version.

        Raises:
            StoreError: It couldn't be made durable: it must not come into force.
        """
        ...
