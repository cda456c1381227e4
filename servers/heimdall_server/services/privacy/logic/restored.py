"""Deletions of which a journal that was restored from a backup knows nothing: they are carried out once more.

A deletion is a record of the journal, which every projection applies. A backup from before it brings back the records and not the deletion,
which only the ledger has then. One that is under way goes back to where it is written; one that has ended never changes, so another
operation takes its place. Erasures need nothing of the kind: the vault hears of all of them at each start.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from heimdall_server.domain.errors import BudgetExceededError
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.ports.operations import OperationLog
from heimdall_server.services.privacy.logic.delete import ACTION
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller

ACTOR: Final = "system"
_AGAIN: Final = "again"
"""Parameter of a repetition: which deletion it repeats."""
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeletionsAfterRestore:
    """What is to be done at a start, before anything new comes in: what comes in later stays, whatever a deletion says."""

    log: OperationLog
    journal_id: str
    """What stood in another journal isn't this one's matter."""
    head: int
    """Last position of the journal."""

    async def rewind(self, now_ns: int) -> None:
        """Let those that are under way be written into the journal again. Before they go on.

        Raises:
            CorruptionError, StoreError: The ledger can't be used.
        """
        for one in await self._undone():
            if not one.ended:
                changed = one.changed(now_ns=now_ns, facts=self._facts(one), inaccessible_time_ns=0)
                await self.log.write(changed)

    async def repeat(self, runner: OperationRunner, trail: AuditTrail) -> None:
        """Begin those that had ended once more.

        Raises:
            CorruptionError, StoreError: The ledger or the audit log can't be used.
        """
        for one in await self._undone():
            if not one.ended:
                continue
            first = one.parameters.get(_AGAIN, one.operation_id)
            reason = f"{first} once more: the journal was restored from a backup that is older"
            await trail.allowed(Caller(ACTOR, ""), ACTION, reason=reason, subject=one.operation_id)
            try:
                await runner.create(
                    OperationKind.DELETE,
                    actor=ACTOR,
                    reason=reason,
                    identity=one.identity,
                    parameters={**one.parameters, _AGAIN: first},
                    facts=self._facts(one),
                    query=one.query,
                    shown_query=one.shown_query,
                )
            except BudgetExceededError:
                _LOG.error("more deletions are to be repeated than fit now; the others are begun at the next start")
                return
            _LOG.warning("a deletion is repeated, since the journal is older than it", extra={"operation": first})

    async def _undone(self) -> list[Operation]:
        """Deletions that stand behind the journal's head; of one and its repetitions the last counts."""
        last: dict[str, Operation] = {}
        for one in await self.log.load():
            if one.kind is OperationKind.DELETE and one.facts.get("journal_id") == self.journal_id:
                last[one.parameters.get(_AGAIN, one.operation_id)] = one
        return [one for one in last.values() if (one.facts.get("position") or 0) > self.head]

    def _facts(self, one: Operation) -> dict[str, Any]:
        """Of a deletion that is to be written anew, and reaches no further than the journal does."""
        return {**one.facts, "through": min(int(one.facts["through"]), self.head), "position": None}
