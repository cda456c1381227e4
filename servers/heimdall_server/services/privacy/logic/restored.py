"""After a journal was restored from a backup: deletions of which it knows nothing are carried out once more, erasures reach no further than it.

A deletion is a record of the journal, which every projection applies. A backup from before it brings back the records and not the deletion,
which only the ledger has then. One that is under way goes back to where it is written; one that has ended never changes, so another
operation takes its place.

Erasures need no repeating, for the vault hears of all of them at each start. But each reaches through a position of the journal, and behind
the head of an older one that is where new frames will stand: what comes in there would be taken for erased. So its reach ends at that
head. Whoever then puts the newer journal back all the same has its frames at these positions again, with what was erased in them: a
frame that is older than the start at which the reach was cut tells so, and the reach is what it was.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from heimdall_server.domain.errors import BudgetExceededError
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.operations import OperationLog
from heimdall_server.services.privacy.logic.delete import ACTION
from heimdall_server.services.privacy.logic.kinds.model import SHARD
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller

ACTOR: Final = "system"
_AGAIN: Final = "again"
"""Parameter of a repetition: which deletion it repeats."""
_REACHES: Final = ("through", "last_sealed")
"""Facts of erasures and rotations that are positions."""
_CUT: Final = "cut"
"""Fact: what they were before an older journal cut them, its head then, and when that was."""
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


@dataclass(frozen=True, slots=True)
class ErasuresAfterRestore:
    """What is to be done at a start, before anybody hears of erasures and before anything new comes in. Rotations of data keys are cut, too."""

    log: OperationLog
    journal: Journal

    async def cut(self, now_ns: int) -> None:
        """Let none reach behind the journal's head; one whose newer journal is back reaches as far as before.

        Raises:
            CorruptionError, StoreError: The ledger or the journal can't be used.
        """
        is_back: dict[tuple[int, int], bool] = {}
        for one in await self.log.load():
            if one.kind not in (OperationKind.ERASE, OperationKind.ROTATE_DEK):
                continue
            cut = dict(one.facts.get(_CUT) or {})
            if cut and (place := (cut["head"], cut["time_ns"])) not in is_back:
                is_back[place] = await self._holds_older(*place)
            facts = self._facts(one, cut, now_ns, is_back=bool(cut) and is_back[place])
            if facts != dict(one.facts):
                # It may have ended, and what it did stays as it is: only the journal's positions are other ones.
                await self.log.write(replace(one, facts=facts))
                _LOG.warning(
                    "the journal is another one than before: how far an erasure or a rotation reaches follows it",
                    extra={"operation": one.operation_id},
                )

    def _facts(self, one: Operation, cut: dict[str, int], now_ns: int, *, is_back: bool) -> dict[str, Any]:
        head = self.journal.head().get(SHARD, 0)
        facts = {**one.facts}
        if is_back:
            facts |= {name: max(facts[name], cut[name]) for name in _REACHES if name in cut}
            cut = {}
        beyond = {name: facts[name] for name in _REACHES if (facts.get(name) or 0) > head}
        if beyond:
            first = {name: max(position, cut.get(name, 0)) for name, position in beyond.items()}
            cut = {**cut, **first, "head": head, "time_ns": now_ns}
        if cut or one.facts.get(_CUT):
            facts[_CUT] = cut
        return {**facts, **dict.fromkeys(beyond, head)}

    async def _holds_older(self, head: int, time_ns: int) -> bool:
        """Whether the first frame behind a head is from before a time: it isn't what came in behind it."""
        after = max(head, self.journal.tail().get(SHARD, 1) - 1)
        async with aclosing(self.journal.read_control(SHARD, after=after)) as frames:  # type: ignore[type-var]
            async for frame in frames:
                return frame.time_ns < time_ns
        return False
