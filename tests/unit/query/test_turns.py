"""Fair turns between callers."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.services.query.logic.turns import FairQueue

T = TypeVar("T")


def pop(queue: FairQueue[T]) -> T:
    ticket = queue.first()
    assert ticket is not None
    item = queue.item(ticket)
    assert queue.take(ticket) == item
    return item


def emptied(queue: FairQueue[T]) -> list[T]:
    return [pop(queue) for _ in range(len(queue))]


def test_callers_take_turns_however_many_items_one_brings() -> None:
    queue = FairQueue[str]()
    for _ in range(5):
        queue.push("a", 1, "a")
    for _ in range(2):
        queue.push("b", 1, "b")
    assert emptied(queue) == ["a", "b", "a", "b", "a", "a", "a"]


def test_a_newcomer_comes_before_the_rest_of_what_another_brought() -> None:
    queue = FairQueue[str]()
    for _ in range(50):
        queue.push("greedy", 10, "greedy")
    assert pop(queue) == "greedy"
    queue.push("new", 10, "new")
    assert "new" in (pop(queue), pop(queue))


def test_dear_items_have_fewer_turns_than_cheap_ones() -> None:
    queue = FairQueue[str]()
    for _ in range(20):
        queue.push("dear", 4, "dear")
        queue.push("cheap", 1, "cheap")
    first = Counter(pop(queue) for _ in range(20))
    assert first["cheap"] >= 3 * first["dear"]


def test_what_was_underestimated_is_charged_afterwards() -> None:
    queue = FairQueue[str]()
    queue.push("a", 1, "a")
    pop(queue)
    queue.charge("a", 100)
    queue.push("a", 1, "a")
    for _ in range(10):
        queue.push("b", 1, "b")
    assert emptied(queue) == ["b"] * 10 + ["a"]


def test_a_removed_item_has_no_turn_and_is_removed_once() -> None:
    queue = FairQueue[str]()
    ticket = queue.push("a", 1, "gone")
    queue.push("a", 1, "kept")
    assert queue.remove(ticket)
    assert not queue.remove(ticket)
    assert len(queue) == 1
    assert pop(queue) == "kept"
    assert queue.first() is None


def test_a_caller_that_may_not_is_passed_over_and_keeps_its_place() -> None:
    queue = FairQueue[str]()
    for caller in ("a", "b", "a"):
        queue.push(caller, 1, caller)
    ticket = queue.first(lambda caller: caller != "a")
    assert ticket is not None
    assert queue.take(ticket) == "b"
    assert queue.first(lambda _: False) is None
    assert emptied(queue) == ["a", "a"]


ITEMS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.001, 5)), max_size=60)


@given(ITEMS)
def test_each_caller_keeps_its_order_and_everything_comes_out_once(items: list[tuple[str, float]]) -> None:
    queue = FairQueue[tuple[str, int]]()
    for number, (caller, cost) in enumerate(items):
        queue.push(caller, cost, (caller, number))
    out = emptied(queue)
    assert sorted(number for _, number in out) == list(range(len(items)))
    for caller in "abc":
        numbers = [number for who, number in out if who == caller]
        assert numbers == sorted(numbers)


@given(ITEMS, st.floats(0.001, 5))
def test_nobody_waits_for_more_of_another_than_the_other_is_owed(items: list[tuple[str, float]], cost: float) -> None:
    queue = FairQueue[tuple[str, float]]()
    for caller, each in items:
        queue.push(caller, each, (caller, each))
    queue.push("new", cost, ("new", cost))
    before: Counter[str] = Counter()
    while (popped := pop(queue))[0] != "new":
        before[popped[0]] += 1
    assert all(count <= 1 for count in before.values())
