"""How many queries run at once, and whose turn it is."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import BudgetExceededError, ConfigurationError
from heimdall_server.services.query.logic.admission import Admission, AdmissionLimits, Grant, QueryClass

MIB = 1024 * 1024
SCAN_S = 5.0


async def hold(
    admission: Admission, caller: str, release: asyncio.Event, entered: list[str], cost_s: float = 0.0
) -> None:
    async with admission.admit(caller, cost_s=cost_s, timeout_s=60):
        entered.append(caller)
        await release.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def assert_nothing_is_held(admission: Admission) -> None:
    assert (admission.threads_used, admission.memory_bytes_used) == (0, 0)
    assert not any(admission.running(kind) or admission.waiting(kind) for kind in QueryClass)


async def test_more_queries_than_may_run_wait_their_turn() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1))
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for caller in ("a", "b", "c"):
            tasks.create_task(hold(admission, caller, release, entered))
        await settle()
        assert entered == ["a"]
        release.set()
    assert entered == ["a", "b", "c"]
    assert_nothing_is_held(admission)


async def test_one_caller_is_refused_beyond_its_share_and_others_are_not() -> None:
    admission = Admission(AdmissionLimits(per_caller_max=2))
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(hold(admission, "a", release, entered))
        await settle()
        with pytest.raises(BudgetExceededError, match="queries of one caller"):
            async with admission.admit("a"):
                pass
        async with admission.admit("b"):
            release.set()
    async with admission.admit("a"):
        pass


async def test_more_than_may_wait_are_refused() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1, waiting_max=1))
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for caller in ("a", "b"):
            tasks.create_task(hold(admission, caller, release, entered))
        await settle()
        with pytest.raises(BudgetExceededError, match="waiting queries"):
            async with admission.admit("c"):
                pass
        release.set()


async def test_who_waits_too_long_is_refused_and_leaves_no_trace() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1, per_caller_max=1, wait_s=0.01))
    async with admission.admit("a"):
        for _ in range(3):
            with pytest.raises(BudgetExceededError, match="concurrent queries"):
                async with admission.admit("b"):
                    pass
    async with admission.admit("b"):
        pass
    assert_nothing_is_held(admission)


async def test_a_caller_with_many_scans_keeps_neither_panels_nor_others_scans_waiting() -> None:
    admission = Admission(AdmissionLimits())
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(hold(admission, "greedy", release, entered, SCAN_S))
        await settle()
        assert entered == ["greedy"]
        async with admission.admit("panel"):
            pass
        tasks.create_task(hold(admission, "modest", release, entered, SCAN_S))
        await settle()
        release.set()
    assert entered.index("modest") <= 2
    assert_nothing_is_held(admission)


async def test_what_is_no_longer_short_waits_behind_no_scan_and_keeps_no_short_one_waiting() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1))
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for name in ("scan", "scan after"):
            tasks.create_task(hold(admission, name, release, entered, SCAN_S))
        for name in ("medium", "medium after"):
            tasks.create_task(hold(admission, name, release, entered, 0.9))
        tasks.create_task(hold(admission, "short", release, entered))
        await settle()
        assert sorted(entered) == ["medium", "scan", "short"]
        assert (admission.running(QueryClass.MEDIUM), admission.waiting(QueryClass.MEDIUM)) == (1, 1)
        release.set()
    assert_nothing_is_held(admission)


async def test_what_must_be_a_scan_is_one_whatever_it_was_thought_to_cost() -> None:
    admission = Admission(AdmissionLimits())
    assert [admission.is_scan(cost_s) for cost_s in (0.1, 2.0, 3.0)] == [False, False, True]
    assert admission.is_scan(admission.scan_cost_s(0.1))


async def test_a_short_query_that_runs_on_gives_its_slot_back() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1, overrun_max=1, overrun_s=0.01))
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(admission, "slow", release, entered))
        await settle()
        tasks.create_task(hold(admission, "slower", release, entered))
        async with asyncio.timeout(5):
            while len(entered) < 2:  # noqa: ASYNC110 - a timer of the admission's own
                await asyncio.sleep(0.001)
        assert (admission.overrun_count, admission.running(QueryClass.SHORT)) == (1, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), admission.admit("other"):
                pass
        release.set()
    assert_nothing_is_held(admission)


async def test_one_caller_cannot_hold_every_slot() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=3, concurrent_per_caller_max=2, overrun_s=0.001))
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(hold(admission, "slow reader", release, entered))
        await asyncio.sleep(0.05)
        assert len(entered) == 2
        async with asyncio.timeout(5), admission.admit("other"):
            release.set()
    assert len(entered) == 20
    assert_nothing_is_held(admission)


async def test_what_a_query_did_cost_decides_the_next_time() -> None:
    admission = Admission(AdmissionLimits(short_s=0.25))
    assert admission.cost_s("q", 0.01) == 0.01
    admission.learn("q", 3.0)
    assert admission.cost_s("q", 0.01) == 3.0
    for _ in range(5):
        admission.learn("q", 0.02)
    assert not admission.is_scan(admission.cost_s("q", 9.0))


async def test_a_query_alone_has_more_threads_than_one_among_others() -> None:
    admission = Admission(AdmissionLimits(threads_per_query_max=2))
    async with admission.admit("a") as alone, admission.admit("b") as beside, admission.admit("c", cost_s=9) as scan:
        assert (alone.threads, beside.threads, scan.threads) == (2, 1, 1)


async def test_a_cancelled_wait_frees_its_place() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1))
    release, entered = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(admission, "a", release, entered))
        waiting = tasks.create_task(hold(admission, "b", release, entered))
        await settle()
        waiting.cancel()
        await settle()
        assert admission.waiting(QueryClass.SHORT) == 0
        release.set()
    assert_nothing_is_held(admission)


async def test_one_that_is_cancelled_in_the_moment_of_its_turn_gives_it_on() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1))
    release, entered = asyncio.Event(), list[str]()
    first = asyncio.create_task(hold(admission, "a", release, entered))
    await settle()
    second = asyncio.create_task(hold(admission, "b", release, entered))
    third = asyncio.create_task(hold(admission, "c", release, entered))
    await settle()
    first.cancel()
    await asyncio.sleep(0)
    second.cancel()
    release.set()
    await asyncio.wait_for(third, 5)
    assert entered[-1] == "c"
    await asyncio.gather(first, second, return_exceptions=True)
    assert_nothing_is_held(admission)


async def test_who_needs_no_turn_any_more_leaves_the_queue_and_is_charged_nothing() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1))
    release, entered, unless = asyncio.Event(), list[str](), asyncio.get_running_loop().create_future()

    async def needless() -> None:
        async with admission.admit("b", cost_s=0.1, unless=unless) as grant:
            assert grant.is_void
            assert (grant.threads, grant.memory_bytes) == (0, 0)
            entered.append("needless")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(admission, "a", release, entered))
        tasks.create_task(needless())
        await settle()
        assert admission.waiting(QueryClass.SHORT) == 1
        unless.set_result(None)
        await settle()
        assert entered == ["a", "needless"]
        assert (admission.waiting(QueryClass.SHORT), admission.running(QueryClass.SHORT)) == (0, 1)
        release.set()
    assert_nothing_is_held(admission)
    async with admission.admit("b", unless=unless) as grant:
        assert not grant.is_void


async def test_history_waits_however_many_queries_run() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1, history_max=1))
    async with admission.admit("a"), admission.admit_history():
        waiting = asyncio.create_task(admission.admit_history().__aenter__())
        await settle()
        assert not waiting.done()
    await waiting


def test_limits_under_which_nothing_could_run_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"scans_max.*\n*.*short_memory_bytes_max"):
        AdmissionLimits(scans_max=0, short_memory_bytes_max=5 << 40)


QUERIES = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from([0.0, 0.1, 0.3, 2.0, 20.0]),
        st.sampled_from([1, 200, 1000, 9000]),
        st.integers(0, 4),
        st.sampled_from(["end", "end", "end", "cancel", "fail"]),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(QUERIES, st.integers(1, 4), st.integers(1, 2), st.integers(1, 5), st.integers(0, 2**16))
def test_budgets_hold_and_nobody_starves(
    queries: list[tuple[str, float, int, int, str]], concurrent: int, scans: int, threads: int, seed: int
) -> None:
    limits = AdmissionLimits(
        concurrent_max=concurrent,
        scans_max=scans,
        threads_max=threads,
        threads_per_query_max=2,
        memory_bytes_max=2000 * MIB,
        short_memory_bytes_max=500 * MIB,
        overrun_max=0,
    )
    ended: list[int] = []

    async def one(admission: Admission, number: int, query: tuple[str, float, int, int, str]) -> None:
        caller, cost_s, memory, turns, end = query
        async with admission.admit(caller, cost_s=cost_s, memory_bytes=memory * MIB, timeout_s=60) as grant:
            check(admission, grant)
            for _ in range(turns):
                await asyncio.sleep(0)
                check(admission, grant)
            ended.append(number)
            if end == "fail":
                raise ValueError

    def check(admission: Admission, grant: Grant) -> None:
        assert 1 <= grant.threads <= 2
        assert admission.threads_used <= limits.threads_max
        assert admission.memory_bytes_used <= limits.memory_bytes_max
        assert admission.running(QueryClass.SHORT) <= concurrent
        assert admission.running(QueryClass.MEDIUM) <= 1
        assert admission.running(QueryClass.SCAN) <= scans

    async def run() -> None:
        admission = Admission(limits)
        r = random.Random(seed)
        tasks = []
        for number, query in enumerate(queries):
            tasks.append(asyncio.create_task(one(admission, number, query)))
            for _ in range(r.randrange(3)):
                await asyncio.sleep(0)
            if query[4] == "cancel":
                tasks[-1].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        for task, query in zip(tasks, queries, strict=True):
            if query[4] == "end":
                assert task.exception() is None
        assert_nothing_is_held(admission)

    asyncio.run(run())
    assert set(ended) >= {number for number, query in enumerate(queries) if query[4] != "cancel"}
