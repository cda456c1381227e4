"""How many queries run at once."""

from __future__ import annotations

import asyncio

import pytest

from heimdall_server.domain.errors import BudgetExceededError
from heimdall_server.services.query.logic.admission import Admission, AdmissionLimits


async def hold(admission: Admission, caller: str, release: asyncio.Event, entered: list[str]) -> None:
    async with admission.admit(caller):
        entered.append(caller)
        await release.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


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


async def test_history_waits_however_many_queries_run() -> None:
    admission = Admission(AdmissionLimits(concurrent_max=1, history_max=1))
    async with admission.admit("a"), admission.admit_history():
        waiting = asyncio.create_task(admission.admit_history().__aenter__())
        await settle()
        assert not waiting.done()
    await waiting
