"""Who may search for a personal value: permission, then rate, then an entry in the audit log, before anything is searched.

Whoever turns a value into its token can guess: ask for a thousand addresses, and see which of them have records. So what
`planner.personal_terms` found in a question passes here first. A value is known here by a digest of its words, never as
it was typed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from heimdall_server.domain.errors import BudgetExceededError, PermissionDeniedError, QueryCostError
from heimdall_server.domain.personal import token
from heimdall_server.ports.audit import Act, AuditLog
from heimdall_server.ports.clock import Clock
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.rates import CallerBuckets
from heimdall_server.services.query.logic import metrics

if TYPE_CHECKING:
    # Only a process with the privacy service loads it.
    from heimdall_server.planner.personal_terms import Matched, PersonalTerms

PERMISSION: Final = "privacy.match"
CALLERS_MAX: Final = 4096
"""Callers who are remembered; of more, the one that was quiet longest is forgotten."""
REPEAT_FREE_S: Final = 60.0
"""A value that its caller asked for no longer ago than this is free: pages, resumed streams, a panel that refreshes."""
TOKENS_TOLD_MAX: Final = 64
"""Tokens of one question that stand in the audit log; of more, the count."""
REFUSALS_PER_MINUTE: Final = 60
"""Refused questions of one caller that are written down."""
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class MatchLimits:
    """How much one caller may search for."""

    per_minute: int = 60
    """Values, on average."""
    burst: int = 300
    """Values at once, after a quiet time; also the most that one question may name."""


class MatchLimiter:
    """Counts the values that callers search for. For one event loop."""

    def __init__(self, limits: MatchLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets = CallerBuckets(clock, per_minute=limits.per_minute, burst=limits.burst, callers_max=CALLERS_MAX)
        self._asked: OrderedDict[str, OrderedDict[bytes, float]] = OrderedDict()

    def take(self, caller: str, matched: Sequence[Matched]) -> None:
        """Count a question's values against its caller, all of them or none.

        Raises:
            QueryCostError: There are more than a caller may ever ask for at once.
            BudgetExceededError: The caller's rate is used up; says when it is enough.
        """
        now_s = self._clock.monotonic_s()
        asked = self._asked.setdefault(caller, OrderedDict())
        self._asked.move_to_end(caller)
        while asked and now_s - next(iter(asked.values())) > REPEAT_FREE_S:
            asked.popitem(last=False)
        while len(self._asked) > CALLERS_MAX:
            self._asked.popitem(last=False)
        values = {_digest(one) for one in matched}
        if len(values) > self._limits.burst:
            raise QueryCostError(
                f"the question names {len(values)} personal values; one may name {self._limits.burst} at most, so ask in parts"
            )
        wait_s = self._buckets.take(caller, len(values - asked.keys()))
        if wait_s:
            raise BudgetExceededError(
                wait_s, f"personal values that {caller} may search for a minute", self._limits.per_minute
            )
        for value in values:
            asked[value] = now_s
            asked.move_to_end(value)


class MatchGuard:
    """See the module. For one event loop."""

    def __init__(self, audit: AuditLog, limiter: MatchLimiter, clock: Clock) -> None:
        self._audit = audit
        self._limiter = limiter
        self._refusals = CallerBuckets(
            clock, per_minute=REFUSALS_PER_MINUTE, burst=REFUSALS_PER_MINUTE, callers_max=CALLERS_MAX
        )

    async def allow(self, matched: Sequence[Matched]) -> None:
        """Let the call that is being served search for some values, or refuse it. Nothing matched: nothing is done.

        Raises:
            PermissionDeniedError: No role of the caller grants `privacy.match`.
            QueryCostError, BudgetExceededError: See `MatchLimiter`.
            StoreError: The entry couldn't be made durable; nothing may be searched.
        """
        if not matched:
            return
        call = current_call()
        caller = call.principal.uri
        if not call.principal.may(PERMISSION):
            await self._refused("denied", "PERMISSION_DENIED", matched)
            raise PermissionDeniedError(caller, PERMISSION, f"searching for a personal value ({_classes(matched)})")
        try:
            self._limiter.take(caller, matched)
        except (QueryCostError, BudgetExceededError) as error:
            reason = "BUDGET_EXCEEDED" if isinstance(error, BudgetExceededError) else "QUERY_TOO_EXPENSIVE"
            await self._refused("failed", reason, matched)
            raise
        tokens = [token(one.data_class, word) for one in matched for word in one.words]
        told = tokens[:TOKENS_TOLD_MAX]
        details = {"token_count": str(len(tokens)), "tokens": " ".join(told)}
        await self._audit.append(_act("allowed", matched, details, subject=tokens[0] if len(tokens) == 1 else ""))
        metrics.MATCHED.inc(len(matched))

    async def _refused(self, outcome: str, reason: str, matched: Sequence[Matched]) -> None:
        """Write a refusal down with its reason of the catalogue, at a bounded rate."""
        metrics.MATCH_REFUSED.labels(outcome).inc()
        if not self._refusals.take(current_call().principal.uri, 1):
            await self._audit.append(_act(outcome, matched, {"error": reason}))


@dataclass(frozen=True, slots=True)
class PersonalSearch:
    """What a process with the privacy service does about personal values in questions."""

    terms: PersonalTerms
    """Puts tokens in their place."""
    guard: MatchGuard
    policy_version: Callable[[], int]
    """Of the privacy policy in force."""

    @property
    def revision(self) -> tuple[int | str, ...]:
        """What questions are put into tokens by, the policy, erasures, the live epochs: one that runs on is put again when this changes. Cheap."""
        return (self.policy_version(), self.terms.erasures, *self.terms.epochs)

    def told_in_vain(self, text: str) -> str:
        """That a text names values which no record has in any form, by their classes; empty: it names none. Cost: see `find_personal`."""
        classes = sorted({one.data_class for one in self.terms.never_stored(text)})
        return (
            f"it names a value of class {', '.join(classes)}, of which records have none in any form" if classes else ""
        )


def _digest(matched: Matched) -> bytes:
    """What a value is remembered by."""
    text = " ".join((matched.data_class, *matched.words))
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def _classes(matched: Sequence[Matched]) -> str:
    return ", ".join(sorted({one.data_class for one in matched}))


def _act(outcome: str, matched: Sequence[Matched], details: dict[str, str], *, subject: str = "") -> Act:
    call = current_call()
    told = {"method": call.method, "classes": _classes(matched), "value_count": str(len(matched)), **details}
    return Act(call.principal.uri, PERMISSION, outcome, subject=subject, details=told, request_id=call.request_id)
