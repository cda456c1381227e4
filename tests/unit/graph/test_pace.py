"""The projection rests for what it works, much while ingest can't keep up, and not at all while nobody waits."""

from __future__ import annotations

import pytest

from heimdall_server.projections.graph.pace import Load, Pace
from heimdall_server.projections.graph.work import Budgets, FactWork
from heimdall_server.wiring.fact_work import ProcessorShare


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.load = Load.CALM
        self.load_until = float("inf")

    def now_s(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def pace(self, share: float = 1.0, active_share: float = 0.25, busy_share: float = 0.02) -> Pace:
        def load_now() -> Load:
            return self.load if self.now < self.load_until else Load.CALM

        return Pace(share, active_share, busy_share, load_now, self.now_s, self.sleep)

    async def work(self, pace: Pace, *pieces_s: float) -> float:
        """Do pieces of work; the time that was rested before and between them."""
        before_s = pace.rested_s
        for piece_s in pieces_s:
            await pace.begin()
            self.now += piece_s
            pace.worked(piece_s)
        return pace.rested_s - before_s


async def test_nothing_rests_while_ingest_keeps_up() -> None:
    time = Time()
    assert await time.work(time.pace(), 5.0, 5.0, 5.0) == 0


@pytest.mark.parametrize(
    ("share", "load", "rest_s"),
    [
        (0.5, Load.CALM, 2.0),
        (0.5, Load.ACTIVE, 6.0),
        (1.0, Load.ACTIVE, 6.0),
        (1.0, Load.BUSY, 98.0),
        (0.01, Load.BUSY, 198.0),
        (0.01, Load.CALM, 198.0),
    ],
)
async def test_the_share_of_the_time_is_kept(share: float, load: Load, rest_s: float) -> None:
    time = Time()
    pace = time.pace(share)
    await time.work(pace, 2.0)
    time.load = load
    assert await time.work(pace, 1.0) == pytest.approx(rest_s, rel=0.01)


async def test_a_load_meets_no_work_at_first_and_then_its_share() -> None:
    time = Time()
    time.load = Load.BUSY
    pace = time.pace(busy_share=0.1)
    assert await time.work(pace, 2.0) == pytest.approx(9.0, rel=0.01)
    assert await time.work(pace, 2.0, 2.0) == pytest.approx(36.0, rel=0.01)


async def test_a_rest_ends_soon_after_ingest_keeps_up_again() -> None:
    time = Time()
    time.load, time.load_until = Load.BUSY, 105.0
    assert 5.0 <= await time.work(time.pace(), 1.0) <= 6.5


async def test_doing_nothing_counts_as_a_rest() -> None:
    time = Time()
    pace = time.pace(0.5)
    await time.work(pace, 2.0)
    time.now += 1.5
    assert await time.work(pace, 1.0) == pytest.approx(0.5, rel=0.01)
    time.now += 60
    assert await time.work(pace, 1.0) == 0


async def test_looking_at_records_rests_no_more_so_that_a_rest_is_never_counted_as_work() -> None:
    time = Time()
    time.load = Load.ACTIVE
    pace = time.pace()
    work = FactWork("here", Budgets(pace=pace))
    work.worked(1.0)
    await work.look([])
    assert pace.rested_s == 0
    await work.rest()
    assert pace.rested_s == pytest.approx(3.0, rel=0.01)
    work.close()


def test_the_share_of_the_processors_is_that_of_the_last_second_or_more() -> None:
    clock = {"now": 100.0, "taken": 7.0}
    share = ProcessorShare(lambda: clock["now"], lambda: clock["taken"], core_count=2)
    assert share.now() == 0
    clock.update(now=102.0, taken=10.0)
    assert share.now() == 0.75
    clock.update(now=102.5, taken=11.0)
    assert share.now() == 0.75
    clock.update(now=104.0, taken=11.0)
    assert share.now() == 0.25
