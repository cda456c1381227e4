"""Deleting what a query finds: counted first, then begun as an operation that every store applies in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.operations import OperationKind
from heimdall_server.services.privacy.logic.operations import OperationRunner, identity_of
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller, DeletionAnswer, DeletionPlan

ACTION: Final = "privacy.delete"


class DeletionPlanner(Protocol):
    """What deletions need of the query side; wiring makes it."""

    async def plan(self, query: str, time_range: TimeRange, datasets: Sequence[str]) -> DeletionPlan:
        """Understand a filter and count what it finds now.

        Args:
            query: In the query language, without pipes.
            time_range: Only records of this time.
            datasets: Only these; empty: all.

        Returns:
            The plan, without a personal value in it.

        Raises:
            QuerySyntaxError: It isn't a filter, or can't be used for deletions.
            InvalidArgumentError: No such dataset.
            StoreError: The store can't be reached.
        """
        ...


class DeleteUseCase:
    """See the module. What is done then is the operation's own matter (its `Steps`); its parameters are the plan's."""

    def __init__(self, *, planner: DeletionPlanner, runner: OperationRunner, trail: AuditTrail) -> None:
        self._planner = planner
        self._runner = runner
        self._trail = trail

    async def delete(
        self,
        caller: Caller,
        query: str,
        time_range: TimeRange,
        datasets: Sequence[str],
        *,
        reason: str,
        dry_run: bool,
        request_id: str,
    ) -> DeletionAnswer:
        """Begin a deletion, or only count what it would delete.

        Args:
            caller: Who.
            query: A filter.
            time_range: Only records of this time.
            datasets: Only these; empty: all.
            reason: Why.
            dry_run: Only count.
            request_id: A repeat gives the first operation; empty: none.

        Raises:
            QuerySyntaxError, InvalidArgumentError: It can't be understood.
            StoreError: The store, the ledger or the audit log can't be reached; nothing was begun.
        """
        plan = await self._planner.plan(query, time_range, datasets)
        await self._trail.allowed(
            caller,
            ACTION,
            reason=reason,
            details={
                # Never the filter itself: what it names may be the secret that is to go.
                "query": plan.shown,
                "query_digest": plan.digest,
                "value_count": plan.value_count or "",
                "start_time_ns": time_range.start_ns_inclusive,
                "end_time_ns": time_range.end_ns_exclusive,
                "datasets": " ".join(datasets),
                "record_count": plan.record_count,
                "dry_run": str(dry_run).lower(),
            },
        )
        if dry_run:
            return DeletionAnswer(None, plan.record_count)
        asked = {
            "query": plan.digest,
            "start": time_range.start_ns_inclusive,
            "end": time_range.end_ns_exclusive,
            "in": sorted(datasets),
        }
        operation = await self._runner.create(
            OperationKind.DELETE,
            actor=caller.actor,
            reason=reason,
            request_id=request_id,
            identity=identity_of(asked),
            parameters=plan.parameters,
            query=plan.query,
            shown_query=plan.shown,
        )
        return DeletionAnswer(operation, plan.record_count)
