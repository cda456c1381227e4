"""What ingest remembers: made from frames, small, quick to write down, and the same when it is read back."""

from __future__ import annotations

import json

import pytest

from heimdall_server.domain.decoding import DecodeContext, Format, FormatKind, RowError
from heimdall_server.domain.errors import BudgetExceededError, CorruptionError
from heimdall_server.domain.records import RECORD_BYTES_MAX
from heimdall_server.ports.journal import (
    DeadLetter,
    DeletedSlice,
    Deletion,
    Entry,
    Frame,
    RequestMark,
    SourceKey,
    SourceMark,
)
from heimdall_server.services.ingest.logic.answers import WINDOW_NS, Answers
from heimdall_server.services.ingest.logic.dead_letters import LETTERS_OF_JOB_MAX, DeadLetterIndex, letters_of
from heimdall_server.services.ingest.logic.deletions import DELETION_BYTES_MAX, DELETION_COUNT_MAX
from heimdall_server.services.ingest.logic.format_text import format_to_json
from heimdall_server.services.ingest.logic.sources import SourceTable
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import DumpFacts, Skip
from tests.support.journal import START_NS

CSV = Format(FormatKind.CSV, {"delimiter": ",", "quote": '"', "header": '["id","message"]', "header_row": "true"})


def mark(
    source: str, *, principal: str = "spiffe://test/client/a", next_offset: int = 100, **fields: object
) -> SourceMark:
    values: dict[str, object] = {"batches": ((0, next_offset, 7),), **fields}
    return SourceMark(SourceKey(principal, source), 1, 0, next_offset, 3, 1, **values)  # type: ignore[arg-type]  # named


def letter(source: str, row: int) -> DeadLetter:
    reason = "not JSON at character 1 of the record: expecting value"
    return DeadLetter(
        SourceKey("spiffe://test/client/a", source), row, row, reason, START_NS, b"x", format_to_json(CSV)
    )


def frame(position: int, *, marks: list[SourceMark], letters: list[DeadLetter], requests: list[RequestMark]) -> Frame:
    return Frame(0, position, START_NS, Entry(None, marks, requests, letters), 0)


def answer(n: int, **fields: object) -> RequestMark:
    values: dict[str, object] = {"accepted_count": n, "rejected_count": 0, "time_ns": START_NS + n, **fields}
    return RequestMark("spiffe://test/client/a", n.to_bytes(32, "little"), **values)  # type: ignore[arg-type]  # named


def filled(sources: int, letters: int, answers: int) -> IngestState:
    state = IngestState(source_count_max=sources + 1)
    for n in range(sources):
        state.sources.apply(mark(f"/var/log/service-{n}.log", format=format_to_json(CSV)), position=n + 1)
    state.letters.add(sources + 1, [letter(f"s{n}", n) for n in range(letters)])
    for n in range(answers):
        state.answers.add(answer(n))
    return state


def test_a_snapshot_of_everything_is_small_and_brings_everything_back() -> None:
    state = filled(10_000, 10_000, 130_000)
    data = state.snapshot()
    assert len(data) < 16 * 1024 * 1024
    again = IngestState(source_count_max=10_001)
    again.restore(data)
    assert again.snapshot() == data
    assert (len(again.sources), len(again.letters), len(again.answers)) == (10_000, 10_000, 130_000)


def test_what_is_read_back_is_what_was_written() -> None:
    state = IngestState(source_count_max=10)
    facts = DumpFacts("people", "ab" * 32, "people.csv", "somewhere", "spiffe://test/client/a", START_NS)
    first = mark("a\nb \N{VOLCANO}", format=format_to_json(CSV, Skip(5, True)), dump=facts.to_json(), finished=True)
    state.apply(
        frame(3, marks=[first], letters=[letter("a", 1)], requests=[answer(1, rejected_count=2, message="two")])
    )
    again = IngestState(source_count_max=10)
    again.restore(state.snapshot())
    known = again.sources.get(first.key)
    assert known is not None
    assert (known.format, known.skip, known.dump, known.finished) == (CSV, Skip(5, True), facts, True)
    assert (known.next_offset, known.position, known.record_count, list(known.batches)) == (100, 3, 4, [(0, 100, 7)])
    assert [info.letter_id for info in again.letters.newest_first()] == ["3-0"]
    assert again.letters.get("3-0") == state.letters.get("3-0")
    found = again.answers.find("spiffe://test/client/a", (1).to_bytes(32, "little"), START_NS + 2)
    assert found == answer(1, rejected_count=2, message="two")


def test_how_far_deletions_reach_survives_and_older_snapshots_know_of_none() -> None:
    state = filled(2, 1, 1)
    entry = Entry(
        None, deletions=(Deletion("d", "leaked", None, None, (), 17), Deletion("e", "old", None, None, (), 4))
    )
    state.apply(Frame(0, 20, START_NS, entry, 100))
    again = IngestState(source_count_max=3)
    again.restore(state.snapshot())
    assert again.deleted_through == 17
    version, _, _, rest = state.snapshot().split(b"\n", 3)
    again.restore(version[:-1] + b"2\n" + rest)
    assert again.deleted_through == 0
    assert len(again.sources) == 2


def deletion(name: str, *, through: int, filter_: str = "leaked") -> Deletion:
    return Deletion(name, filter_, 5, None, ("logs",), through)


def test_deletions_are_known_for_as_long_as_letters_from_before_them_may_live() -> None:
    state = filled(0, 0, 0)
    state.apply(Frame(0, 20, START_NS, Entry(None, deletions=(deletion("a", through=17),)), 100))
    state.apply(Frame(0, 30, START_NS, Entry(None, deletions=(deletion("b", through=25),)), 100))
    again = IngestState(source_count_max=1)
    again.restore(state.snapshot())
    assert again.snapshot() == state.snapshot()
    for one in (state, again):
        assert [held.deletion for held in one.deletions.reaching(17)] == [
            deletion("a", through=17),
            deletion("b", through=25),
        ]
        assert [held.deletion.deletion_id for held in one.deletions.reaching(18)] == ["b"]
        one.forget_before(21)
        assert [held.deletion.deletion_id for held in one.deletions.reaching(1)] == ["b"]
        one.forget_before(31)
        assert (len(one.deletions), one.deletions.unknown_through) == (0, 0)


def test_of_too_many_deletions_it_is_known_how_far_the_forgotten_ones_reached() -> None:
    state = filled(0, 0, 0)
    large = "x" * (DELETION_BYTES_MAX // 3)
    for n in range(4):
        entry = Entry(None, deletions=(deletion(f"d{n}", through=10 * n + 5, filter_=large),))
        state.apply(Frame(0, 10 * n + 8, START_NS, entry, 100))
    assert (len(state.deletions), state.deletions.unknown_through) == (2, 15)
    for n in range(DELETION_COUNT_MAX):
        state.deletions.add(deletion(f"e{n}", through=100), position=101)
    assert (len(state.deletions), state.deletions.unknown_through) == (DELETION_COUNT_MAX, 35)
    again = IngestState(source_count_max=1)
    again.restore(state.snapshot())
    assert (len(again.deletions), again.deletions.unknown_through) == (DELETION_COUNT_MAX, 35)
    again.forget_before(36)
    assert again.deletions.unknown_through == 0


def test_a_deletion_that_is_written_twice_counts_once() -> None:
    state = filled(0, 0, 0)
    for position in (20, 21):
        state.apply(Frame(0, position, START_NS, Entry(None, deletions=(deletion("a", through=position - 1),)), 100))
    (held,) = state.deletions.reaching(1)
    assert (held.position, held.deletion.through) == (21, 20)


def test_of_deletions_in_an_older_snapshot_it_is_known_only_how_far_they_reached() -> None:
    state = filled(2, 1, 1)
    state.apply(Frame(0, 20, START_NS, Entry(None, deletions=(deletion("a", through=17),)), 100))
    version, deleted, _, rest = state.snapshot().split(b"\n", 3)
    again = IngestState(source_count_max=3)
    again.restore(b"\n".join((version[:-1] + b"4", deleted, rest)))
    assert (len(again.deletions), again.deletions.unknown_through, again.deleted_through) == (0, 17, 17)
    assert len(again.letters) == 1


def test_a_finished_dump_of_which_a_deletion_left_nothing_is_forgotten_and_any_other_stays() -> None:
    state = IngestState(source_count_max=10)
    principal = "spiffe://test/client/a"
    facts = {name: DumpFacts(name, name * 32, f"{name}.csv", "", principal, START_NS) for name in "abcd"}
    other, masked = DumpFacts("other", "ef" * 32), DumpFacts(f"[card]~{'0f' * 8}", "0e" * 32)
    for position, name in enumerate("abcd", start=1):
        marks = [mark(name, dump=facts[name].to_json(), finished=name != "c"), mark(f"log-{name}")]
        state.apply(frame(position, marks=marks, letters=[], requests=[]))
    twin = SourceMark(SourceKey(principal, "a", "ef" * 32), 1, 0, 100, 3, 1, dump=other.to_json(), finished=True)
    renamed = SourceMark(SourceKey(principal, "a", "0e" * 32), 1, 0, 100, 3, 1, dump=masked.to_json(), finished=True)
    state.apply(frame(3, marks=[twin, renamed], letters=[], requests=[]))
    slices = (
        DeletedSlice("a", "a", whole=True),
        DeletedSlice("a", "[card]", whole=True),
        DeletedSlice("b", "b"),
        DeletedSlice("c", "c", whole=True),
    )
    later = (*slices, DeletedSlice("d", "d", whole=True))
    entry = Entry(None, deletions=(Deletion("d", "dump:*", None, None, (), 3, later),))
    state.apply(Frame(0, 5, START_NS, entry, 100))
    assert state.sources.get(SourceKey(principal, "a")) is None
    assert state.sources.find_dump(principal, facts["a"]) is None
    assert state.sources.find_dump(principal, masked) is None  # its records carry its name without the digest
    assert state.sources.find_dump(principal, other) is not None  # another dump of the same source
    for name in ("b", "c", "d", "log-a"):  # in part, not finished, sent again meanwhile, no dump
        assert state.sources.get(SourceKey(principal, name)) is not None


def test_a_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(CorruptionError, match="version"):
        IngestState(source_count_max=1).restore(b'{"version":1}')


def test_an_answer_counts_for_ten_minutes_and_only_for_its_identity() -> None:
    answers = Answers()
    answers.add(answer(1))
    digest, at_ns = answer(1).digest, answer(1).time_ns
    assert answers.find(answer(1).principal, digest, at_ns + WINDOW_NS) == answer(1)
    assert answers.find(answer(1).principal, digest, at_ns + WINDOW_NS + 1) is None
    assert answers.find("spiffe://test/client/b", digest, at_ns) is None


def test_old_answers_go_and_the_newest_of_a_repeated_one_stays() -> None:
    answers = Answers(count_max=50_000)
    answers.add(answer(7))
    for n in range(10, 60_000):
        answers.add(answer(n))
    assert len(answers) == 50_000
    assert answers.find(answer(7).principal, answer(7).digest, START_NS) is None
    later = answer(7, time_ns=START_NS + 60_000)
    answers.add(later)
    answers.add(answer(7, time_ns=START_NS + WINDOW_NS + 59_999))
    assert answers.find(later.principal, later.digest, START_NS + WINDOW_NS) is not None
    assert len(answers) <= 3


def test_letters_before_the_tail_are_forgotten() -> None:
    index = DeadLetterIndex()
    for position in (3, 5, 9):
        index.add(position, [letter("s", n) for n in range(2)])
    index.resolve(["5-1"])
    index.forget_before(5)
    assert [info.letter_id for info in index.newest_first()] == ["9-1", "9-0", "5-0"]


def test_of_a_million_bad_records_letters_hold_many_each_and_all_of_their_bytes() -> None:
    errors = [RowError(n, 2 * n, "no", raw=b"r%d" % n) for n in range(10_000)]
    context = DecodeContext("s", "logs", START_NS, first_record_number=11)
    letters = letters_of(errors, key=SourceKey("p", "s"), format_=CSV, context=context, keep_raw=True)
    assert len(letters) <= LETTERS_OF_JOB_MAX + 1
    assert b"\n".join(one.raw for one in letters).split(b"\n") == [error.raw for error in errors]
    assert [one.row for one in letters] == sorted(one.row for one in letters)
    assert '"first_record_number":12' in letters[1].context
    assert "further records" in letters[-1].reason
    dropped = letters_of(errors, key=SourceKey("p", "s"), format_=CSV, context=context, keep_raw=False)
    assert not any(one.raw for one in dropped)


def test_a_letter_is_no_larger_than_a_record() -> None:
    errors = [RowError(n, n, "no", raw=b"x" * 400_000) for n in range(LETTERS_OF_JOB_MAX + 30)]
    letters = letters_of(
        errors, key=SourceKey("p", "s"), format_=CSV, context=DecodeContext("s", "logs", 1), keep_raw=True
    )
    assert max(len(one.raw) for one in letters) <= RECORD_BYTES_MAX + 10


def test_of_too_many_sources_the_quietest_of_who_has_most_is_forgotten() -> None:
    table = SourceTable(source_count_max=5)
    for n, principal in enumerate(["few", "many", "many", "many", "few"]):
        table.apply(mark(f"s{n}", principal=principal), position=n + 1)
    table.open(SourceKey("other", "new"))
    assert table.get(SourceKey("few", "s0")) is not None
    assert table.get(SourceKey("many", "s1")) is None
    table.release(SourceKey("other", "new"))
    assert len(table) == 4  # without data and stream it isn't worth remembering


def test_sources_with_a_stream_are_never_forgotten() -> None:
    table = SourceTable(source_count_max=2)
    for name in ("a", "b"):
        table.open(SourceKey("p", name))
    with pytest.raises(BudgetExceededError, match="open stream"):
        table.open(SourceKey("p", "c"))
    # What the journal says is taken in whatever the bound: this must not fail.
    table.apply(mark("d"), position=1)
    assert len(table) == 3


def test_dumps_that_were_begun_before_they_had_keys_of_their_own_keep_their_source() -> None:
    state = IngestState(source_count_max=10)
    principal, facts = "spiffe://test/client/a", DumpFacts("people", "ab" * 32)
    plain, own = SourceKey(principal, "osint"), SourceKey(principal, "osint", "cd" * 32)
    other = SourceMark(own, 1, 0, 200, 3, 1, dump=DumpFacts("other", "cd" * 32).to_json())
    state.apply(frame(1, marks=[mark("osint", dump=facts.to_json())], letters=[], requests=[]))
    version, deleted, _, rows, rest = state.snapshot().split(b"\n", 4)
    older = json.dumps([row[:-1] for row in json.loads(rows)]).encode()
    again = IngestState(source_count_max=10)
    again.restore(b"\n".join((version[:-1] + b"3", deleted, older, rest)))
    again.apply(frame(2, marks=[other], letters=[], requests=[]))
    for one in (again, IngestState(source_count_max=10)):
        one.restore(again.snapshot())
        assert one.sources.dump_key(principal, "osint", "ab" * 32) == plain
        assert one.sources.dump_key(principal, "osint", "cd" * 32) == own
        assert [one.sources.get(key).next_offset for key in (plain, own)] == [100, 200]  # type: ignore[union-attr]
