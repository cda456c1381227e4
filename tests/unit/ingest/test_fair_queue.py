"""Who comes next: shares by bytes, order within a turn, nothing lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.services.ingest.logic.fair_queue import SHARE_BYTES, FairQueue
from heimdall_server.services.ingest.logic.throughput import Throughput


@dataclass(eq=False)
class Piece:
    """As much of a job as a queue sees."""

    turn: str
    size_bytes: int
    number: int = 0
    merges: bool = True
    is_stale: bool = False
    numbers: list[int] = field(default_factory=list)
    is_dropped: bool = False

    def absorb(self, later: Any) -> bool:
        if not self.merges:
            return False
        self.size_bytes += later.size_bytes
        self.numbers += later.numbers
        return True

    def stale(self) -> bool:
        return self.is_stale

    def taken(self) -> None:
        self.numbers.append(self.number)

    def dropped(self) -> None:
        self.is_dropped = True

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def put(queue: FairQueue, *pieces: Piece) -> None:
    for piece in pieces:
        queue.put(piece)


def test_each_turn_gets_its_share_and_the_rest_goes_to_who_has_more() -> None:
    queue = FairQueue()
    put(queue, *[Piece("large", SHARE_BYTES // 2, n) for n in range(40)])
    put(queue, Piece("small", 10))
    taken = queue.take(4 * SHARE_BYTES)
    assert [piece.turn for piece in taken] == ["large", "small"]
    assert taken[0].size_bytes == 3.5 * SHARE_BYTES
    assert taken[0].numbers == list(range(7))  # type: ignore[attr-defined]  # a Piece


def test_a_piece_larger_than_a_group_comes_alone_and_is_not_passed_for_ever() -> None:
    queue = FairQueue()
    put(queue, Piece("small", 10, merges=False), Piece("huge", 1000), *[Piece("small", 10, merges=False)] * 3)
    first = queue.take(100)
    assert [piece.turn for piece in first] == ["small", "small", "small", "small"]
    put(queue, *[Piece("small", 10, merges=False) for _ in range(20)])
    assert [piece.turn for piece in queue.take(100)] == ["huge"]


def test_what_is_put_back_comes_first() -> None:
    queue = FairQueue()
    put(queue, *[Piece("a", 10, n, merges=False) for n in range(4)], Piece("b", 10))
    taken = queue.take(30)
    queue.put_back(taken[1:])
    assert queue.size_bytes == 40
    again = queue.take(1000)
    assert [(piece.turn, piece.number) for piece in again] == [("a", 1), ("a", 2), ("a", 3), ("b", 0)]  # type: ignore[attr-defined]  # Pieces


def test_stale_jobs_are_dropped_on_the_way() -> None:
    queue = FairQueue()
    stale = [Piece("a", 10, n, is_stale=True) for n in range(3)]
    put(queue, *stale)
    assert queue.take(1000) == []
    assert all(piece.is_dropped for piece in stale)
    assert (queue.size_bytes, bool(queue)) == (0, False)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3 * SHARE_BYTES), st.booleans()), max_size=40),
    st.integers(1, 8 * SHARE_BYTES),
)
def test_every_job_is_taken_once_and_each_turn_in_order(jobs: list[tuple[str, int, bool]], bytes_max: int) -> None:
    queue = FairQueue()
    for number, (turn, size, merges) in enumerate(jobs):
        queue.put(Piece(turn, size, number, merges))
    order: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    while queue:
        taken: list[Any] = queue.take(bytes_max)
        assert taken
        assert len(taken) == 1 or sum(piece.size_bytes for piece in taken) <= bytes_max
        for piece in taken:
            order[piece.turn] += piece.numbers
    assert queue.size_bytes == 0
    for turn, numbers in order.items():
        assert numbers == [number for number, job in enumerate(jobs) if job[0] == turn]


def test_throughput_counts_the_time_between_ends_and_only_what_is_large() -> None:
    throughput = Throughput()
    guessed_s = throughput.wait_s(1_000_000)
    assert guessed_s > 0
    throughput.note(10, taken_s=0.0, end_s=1.0)
    assert throughput.wait_s(1_000_000) == guessed_s
    throughput.note(10_000_000, taken_s=1.0, end_s=2.0)
    assert throughput.wait_s(20_000_000) == 2.0
    for second in range(3, 60):  # decoding overlaps with writing: each group took two seconds, one ends every second
        throughput.note(10_000_000, taken_s=second - 2.0, end_s=float(second))
    assert round(throughput.wait_s(20_000_000), 3) == 2.0
