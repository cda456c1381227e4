"""How far the journal may be trimmed: with everybody, and when somebody must be left behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.ports.journal import JournalState
from heimdall_server.projections.trimming import Follower, Trimming

BYTES_MAX = 1_000
AGE_MAX_S = 3_600.0


def state(*, size_bytes: int = 100, tail: int = 1, refusing: str = "") -> JournalState:
    return JournalState("0" * 32, {0: 500}, {0: tail}, size_bytes, 4, 500, 500, refusing)


def vault(position: int, *, lag_s: float = 1.0) -> Follower:
    return Follower("vault", {0: position} if position else {}, lag_s)


def make() -> Trimming:
    return Trimming(bytes_max=BYTES_MAX, age_max_s=AGE_MAX_S)


def test_what_everybody_has_passed_may_go() -> None:
    assert make().decide({0: 400}, [vault(300), Follower("other", {0: 350}, 0.0)], state()).through == {0: 300}
    assert make().decide({0: 400}, [vault(450)], state()).through == {0: 400}
    assert make().decide({0: 400}, [], state()).through == {0: 400}


def test_nothing_goes_that_an_optional_projection_never_saw_while_there_is_room() -> None:
    trim = make().decide({0: 400}, [vault(0)], state(size_bytes=899))
    assert trim.through == {0: 0}
    assert trim.left_behind == ()


def test_near_the_bound_it_gives_way_step_by_step_and_is_named() -> None:
    trimming = make()
    steps = [trimming.decide({0: 400}, [vault(80)], state(size_bytes=900)) for _ in range(60)]
    positions = [step.through[0] for step in steps]
    assert positions[0] == 120
    assert positions == sorted(positions)
    assert positions[-1] == 400
    assert steps[0].left_behind == ("vault",)
    assert steps[-1].left_behind == ()


def test_what_was_given_up_stays_given_up_and_no_more_goes_once_there_is_room() -> None:
    trimming = make()
    trimming.decide({0: 400}, [vault(80)], state(size_bytes=900))
    assert trimming.decide({0: 400}, [vault(80)], state(tail=100)).through == {0: 120}
    assert trimming.decide({0: 450}, [vault(450)], state(tail=100)).through == {0: 450}


def test_what_went_before_is_not_given_up_again() -> None:
    assert make().decide({0: 400}, [vault(0)], state(size_bytes=900, tail=321)).through == {0: 330}


def test_a_journal_that_refuses_or_gets_too_old_does_not_wait_either() -> None:
    assert make().decide({0: 400}, [vault(80)], state(refusing="journal_bytes_max")).left_behind == ("vault",)
    assert make().decide({0: 400}, [vault(80, lag_s=AGE_MAX_S)], state()).left_behind == ("vault",)


@given(
    st.integers(0, 500),
    st.lists(st.integers(0, 500), max_size=3),
    st.integers(0, 1_000),
    st.integers(1, 500),
    st.data(),
)
def test_nothing_goes_that_a_required_projection_needs(
    required: int, optional: list[int], size_bytes: int, tail: int, data: st.DataObject
) -> None:
    trimming = make()
    before = 0
    for _ in range(3):
        followers = [
            Follower(f"p{i}", {0: position}, data.draw(st.floats(0, 5_000))) for i, position in enumerate(optional)
        ]
        trim = trimming.decide({0: required}, followers, state(size_bytes=size_bytes, tail=tail))
        assert before <= trim.through[0] <= required or not optional
        assert trim.through[0] <= required
        before = trim.through[0]
