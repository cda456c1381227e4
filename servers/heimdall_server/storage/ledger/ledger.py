"""Operations and policy versions in files: one chain that carries both, and the adapters of `ports/operations.py`.

An operation is kept in plain but for the filter of a deletion, which may hold the secret that is to be deleted: that is sealed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from heimdall_server.crypto.text_sealing import TextSealer
from heimdall_server.domain.errors import ChainBrokenError
from heimdall_server.domain.operations import ErasureScope, Operation, OperationKind, OperationState
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.operations import PolicyRule, PolicyVersion
from heimdall_server.storage.ledger.chain import ChainLog
from heimdall_server.storage.ledger.files import SEGMENT_BYTES_MAX
from heimdall_server.storage.ledger.lines import ChainEntry

PURPOSE: Final = "ledger"
_OPERATION: Final = "operation"
_POLICY: Final = "policy"
_QUERY: Final = "query"
_SEALED_QUERY: Final = "sealed_query"
_T = TypeVar("_T")


class FileLedger:
    """The ledger of a folder, `<data_dir>/privacy`."""

    def __init__(self, chain: ChainLog, filters: TextSealer) -> None:
        self._chain = chain
        self.operations = FileOperationLog(chain, filters)
        """The `OperationLog` in it."""
        self.policies = FilePolicyLog(chain)
        """The `PolicyLog` in it."""

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        clock: Clock,
        filters: TextSealer,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        sync: Callable[[int], None] | None = None,
    ) -> Self:
        """Open the ledger, or begin one; `filters` seals those of deletions, all else is as for `FileAuditLog.open`."""
        chain = await ChainLog.open(
            directory, PURPOSE, now_ns=clock.now_ns, segment_bytes_max=segment_bytes_max, sync=sync
        )
        return cls(chain, filters)

    async def verify(self) -> int:
        """Walk the whole chain.

        Returns:
            How many entries it has.

        Raises:
            ChainBrokenError: It was changed.
        """
        last = await self._chain.verify()
        return 0 if last is None else last.sequence

    async def close(self) -> None:
        """Let go of the files. Idempotent."""
        await self._chain.close()


class FileOperationLog:
    """The `OperationLog` of a ledger: whole operations, each time they change."""

    def __init__(self, chain: ChainLog, filters: TextSealer) -> None:
        self._chain = chain
        self._filters = filters

    async def load(self) -> Sequence[Operation]:
        """See the port."""
        found: dict[str, Operation] = {}
        async for some in self._chain.entries():
            for entry in some:
                if (value := entry.payload.get(_OPERATION)) is not None:
                    operation = _read(entry, self._operation, value)
                    found[operation.operation_id] = operation
        return list(found.values())

    async def write(self, operation: Operation) -> None:
        """See the port."""
        kept = {key: value for key, value in asdict(operation).items() if value}
        if query := kept.pop(_QUERY, ""):
            kept[_SEALED_QUERY] = self._filters.seal(operation.operation_id, query)
        await self._chain.append({_OPERATION: kept})

    def _operation(self, value: Mapping[str, Any]) -> Operation:
        kept = dict(value)
        # What an older version wrote has its filter in plain.
        if sealed := kept.pop(_SEALED_QUERY, ""):
            kept[_QUERY] = self._filters.open(kept["operation_id"], sealed)
        return _operation(kept)


class FilePolicyLog:
    """The `PolicyLog` of a ledger."""

    def __init__(self, chain: ChainLog) -> None:
        self._chain = chain

    async def read(self) -> AsyncIterator[PolicyVersion]:
        """See the port."""
        async for some in self._chain.entries():
            for entry in some:
                if (value := entry.payload.get(_POLICY)) is not None:
                    yield _read(entry, _policy, value)

    async def append(self, version: PolicyVersion) -> None:
        """See the port."""
        await self._chain.append({_POLICY: asdict(version)})


def _operation(value: Mapping[str, Any]) -> Operation:
    scope = value.get("scope")
    return Operation(
        **{
            **value,
            "kind": OperationKind(value["kind"]),
            "state": OperationState(value["state"]),
            "reason": value.get("reason", ""),
            "scope": None if scope is None else ErasureScope(**{**scope, "tokens": tuple(scope["tokens"])}),
        }
    )


def _policy(value: Mapping[str, Any]) -> PolicyVersion:
    return PolicyVersion(**{**value, "rules": tuple(PolicyRule(**rule) for rule in value["rules"])})


def _read(entry: ChainEntry, read: Callable[[Mapping[str, Any]], _T], value: Mapping[str, Any]) -> _T:
    try:
        return read(value)
    except (TypeError, KeyError, ValueError) as error:
        problem = "a newer version wrote it, or it isn't what this program writes"
        raise ChainBrokenError(f"{PURPOSE}, entry {entry.sequence}", problem) from error
