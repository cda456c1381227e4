"""Who may search for a personal value, how often, and what is written down of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.domain.errors import BudgetExceededError, PermissionDeniedError, QueryCostError, StoreError
from heimdall_server.domain.identity import Principal
from heimdall_server.planner.personal_terms import Matched
from heimdall_server.ports.audit import Act, AuditEntry
from heimdall_server.rpc.calls import Call, serving
from heimdall_server.services.query.logic import matching
from heimdall_server.services.query.logic.matching import MatchGuard, MatchLimiter, MatchLimits
from heimdall_server.storage.ledger.audit import FileAuditLog
from tests.support.journal import ManualClock

ALICE = Matched("email", ("0" + "a" * 26, "1" + "b" * 26))
BOB = Matched("email", ("0" + "c" * 26,))
NETWORK = Matched("ipv4_24", tuple(f"0{letter * 26}" for letter in "abcdefgh"))


def values(count: int, start: int = 0) -> list[Matched]:
    return [Matched("phone", (f"0{number:026d}",)) for number in range(start, start + count)]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limiter(clock: ManualClock) -> MatchLimiter:
    return MatchLimiter(MatchLimits(per_minute=6, burst=3), clock)


def principal(*permissions: str) -> Principal:
    return Principal(
        "spiffe://x/client/a", "x", "client", "a", "f", roles=frozenset({"r"}), permissions=frozenset(permissions)
    )


@pytest.fixture
def call() -> Iterator[Call]:
    made = Call(principal("query.*", "privacy.match"), "r-1", "heimdall.query.v1.QueryService/Search", "peer")
    with serving(made):
        yield made


@asynccontextmanager
async def audit_log(folder: Path) -> AsyncIterator[FileAuditLog]:
    log = await FileAuditLog.open(folder, clock=ManualClock(), mask_text=str)
    try:
        yield log
    finally:
        await log.close()


async def written(log: FileAuditLog) -> list[Act]:
    return [entry.act async for entry in log.read()]


def test_a_callers_values_are_bounded_and_flow_back(limiter: MatchLimiter, clock: ManualClock) -> None:
    limiter.take("a", values(3))
    with pytest.raises(BudgetExceededError) as caught:
        limiter.take("a", values(1, 10))
    assert 10 <= caught.value.retry_after_s <= 10.2
    limiter.take("b", values(3))
    clock.advance(caught.value.retry_after_s)
    limiter.take("a", values(1, 10))


def test_what_was_asked_for_within_the_last_minute_is_free(limiter: MatchLimiter, clock: ManualClock) -> None:
    limiter.take("a", values(3))
    for _ in range(5):
        clock.advance(0.01)
        limiter.take("a", values(3))
    with pytest.raises(BudgetExceededError):
        limiter.take("a", values(4, 1)[-1:])
    with pytest.raises(BudgetExceededError):
        limiter.take("a", [*values(2), *values(1, 50)])
    clock.advance(61)
    limiter.take("a", values(3))
    with pytest.raises(BudgetExceededError):
        limiter.take("a", values(1, 60))


def test_what_was_refused_is_not_free_afterwards(limiter: MatchLimiter, clock: ManualClock) -> None:
    limiter.take("a", values(2))
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            limiter.take("a", values(2, 10))
    clock.advance(10)
    limiter.take("a", values(2, 10))


def test_a_network_is_one_value_and_a_repeated_value_too(limiter: MatchLimiter) -> None:
    limiter.take("a", [NETWORK, NETWORK, ALICE, ALICE])
    limiter.take("a", [BOB])
    with pytest.raises(BudgetExceededError):
        limiter.take("a", values(1))


def test_a_part_of_a_network_that_was_asked_for_is_not_free(limiter: MatchLimiter) -> None:
    limiter.take("a", [NETWORK, *values(2)])
    with pytest.raises(BudgetExceededError):
        limiter.take("a", [Matched(NETWORK.data_class, NETWORK.words[:4])])


def test_more_values_than_ever_fit_are_refused_without_a_time_to_come_back(limiter: MatchLimiter) -> None:
    with pytest.raises(QueryCostError, match="names 4 personal values; one may name 3"):
        limiter.take("a", values(4))
    limiter.take("a", values(3))


def test_the_limiter_forgets_the_quietest_callers(
    limiter: MatchLimiter, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    monkeypatch.setattr(matching, "CALLERS_MAX", 2)
    limiter = MatchLimiter(MatchLimits(6, 3), clock)
    for caller in "abc":
        limiter.take(caller, values(3))
    limiter.take("a", values(3, 10))
    with pytest.raises(BudgetExceededError):
        limiter.take("c", values(1, 10))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), max_size=30))
def test_nobody_ever_gets_more_than_the_burst_and_what_flowed_in(asks: list[tuple[float, int]]) -> None:
    clock = ManualClock()
    limiter = MatchLimiter(MatchLimits(per_minute=6, burst=5), clock)
    taken, passed_s, number = 0, 0.0, 0
    for wait_s, count in asks:
        clock.advance(wait_s)
        passed_s += wait_s
        asked = values(count, number)
        number += count
        try:
            limiter.take("a", asked)
        except BudgetExceededError:
            continue
        taken += count
    assert taken <= 5 + passed_s / 10 + 1e-6


async def test_who_may_search_leaves_an_entry_with_tokens_before_he_goes_on(
    limiter: MatchLimiter, clock: ManualClock, tmp_path: Path, call: Call
) -> None:
    async with audit_log(tmp_path) as log:
        guard = MatchGuard(log, limiter, clock)
        await guard.allow([])
        await guard.allow([BOB])
        await guard.allow([ALICE, NETWORK])
        first, second = await written(log)
    assert (first.actor, first.action, first.outcome) == (call.principal.uri, "privacy.match", "allowed")
    assert (first.subject, first.request_id) == (f"[email:{BOB.words[0]}]", "r-1")
    assert first.details["method"] == call.method
    assert second.details["classes"] == "email, ipv4_24"
    assert (second.details["value_count"], second.details["token_count"]) == ("2", "10")
    assert f"[email:{ALICE.words[1]}]" in second.details["tokens"]


async def test_of_very_many_tokens_some_stand_in_the_entry(clock: ManualClock, tmp_path: Path, call: Call) -> None:
    del call
    async with audit_log(tmp_path) as log:
        await MatchGuard(log, MatchLimiter(MatchLimits(), clock), clock).allow(values(100))
        (entry,) = await written(log)
    assert int(entry.details["token_count"]) == 100
    assert len(entry.details["tokens"].split()) == matching.TOKENS_TOLD_MAX


async def test_who_may_not_is_told_what_he_lacks_and_why_and_each_refusal_is_written(
    limiter: MatchLimiter, clock: ManualClock, tmp_path: Path
) -> None:
    async with audit_log(tmp_path) as log:
        guard = MatchGuard(log, limiter, clock)
        with serving(Call(principal("query.*"), "r-2", "m", "peer")):
            await guard.allow([])
            for _ in range(matching.REFUSALS_PER_MINUTE + 5):
                with pytest.raises(PermissionDeniedError, match=r"'privacy.match', which searching .*\(email\) needs"):
                    await guard.allow([ALICE])
        entries = await written(log)
    assert len(entries) == matching.REFUSALS_PER_MINUTE
    assert {entry.outcome for entry in entries} == {"denied"}
    assert not any("tokens" in entry.details for entry in entries)


async def test_who_asks_too_often_is_refused_and_that_is_written(
    limiter: MatchLimiter, clock: ManualClock, tmp_path: Path, call: Call
) -> None:
    del call
    async with audit_log(tmp_path) as log:
        guard = MatchGuard(log, limiter, clock)
        await guard.allow(values(3))
        with pytest.raises(BudgetExceededError):
            await guard.allow(values(1, 5))
        allowed, failed = await written(log)
    assert (allowed.outcome, failed.outcome, failed.details["error"]) == ("allowed", "failed", "BUDGET_EXCEEDED")


async def test_nothing_is_searched_when_the_entry_can_not_be_written(
    limiter: MatchLimiter, clock: ManualClock, call: Call
) -> None:
    del call

    class Broken(FileAuditLog):
        def __init__(self) -> None:
            pass

        async def append(self, act: Act) -> AuditEntry:
            await asyncio.sleep(0)
            raise StoreError("audit log", act.action)

    with pytest.raises(StoreError):
        await MatchGuard(Broken(), limiter, clock).allow([ALICE])
