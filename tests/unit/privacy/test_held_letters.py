"""An export tells the dead letters that name the subject, however they are encoded, and says where it can't."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.ports.journal import DeadLetter, Entry, SourceKey
from heimdall_server.services.ingest.logic.dead_letters import LETTER_COUNT_MAX
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.privacy.logic.held import Missing
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.subject_parts import HeldLetters
from tests.support.journal import START_NS, opened, small_config
from tests.support.vaults import make_name

ALICE, BOB = make_name("alice"), make_name("bob")


def letter(number: int, raw: bytes, *, reason: str = "not JSON") -> DeadLetter:
    return DeadLetter(SourceKey("spiffe://test/client/a", f"s{number}"), number, 0, reason, START_NS + number, raw)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[EmbeddedJournal]:
    async with opened(small_config(tmp_path / "journal")) as made:
        yield made


async def told(
    journal: EmbeddedJournal, *frames: Sequence[DeadLetter], time: TimeRange | None = None
) -> tuple[list[tuple[str, str]], list[str]]:
    """Sources and texts of the letters that an export has of some frames, and what it says is missing."""
    state = IngestState(source_count_max=10)
    await journal.maintain(state)
    for letters in frames:
        await journal.append([Entry(None, dead_letters=tuple(letters))])
    found: list[tuple[str, str]] = []
    missing: list[str] = []
    async for line in HeldLetters(journal, state.letters).lines([ALICE], time or TimeRange()):
        if isinstance(line, Missing):
            missing.append(line.reason)
        else:
            assert line["kind"] == "dead_letter"
            found.append((line["dead_letter"]["source"], line["dead_letter"]["text"]))
    return found, missing


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-16"])
async def test_letters_that_name_the_subject_are_told_as_text(journal: EmbeddedJournal, encoding: str) -> None:
    texts = [f"{{broken {ALICE}", f"{{broken {BOB}", f"{{of {BOB} and {ALICE}: süß"]
    letters = [letter(number, text.encode(encoding)) for number, text in enumerate(texts)]
    found, missing = await told(journal, letters[:2], letters[2:])
    assert [(source, text.lstrip("\ufeff")) for source, text in found] == [("s0", texts[0]), ("s2", texts[2])]
    assert missing == []


async def test_pieces_that_are_joined_by_one_byte_are_found_too(journal: EmbeddedJournal) -> None:
    wide = "bad".encode("utf-16-le") + b"\n" + f"bad {ALICE}".encode("utf-16-le")
    (found,), _ = await told(journal, [letter(0, wide)])
    assert str(ALICE) in found[1]


async def test_only_letters_of_the_time_that_is_asked_for_are_told(journal: EmbeddedJournal) -> None:
    letters = [letter(number, str(ALICE).encode()) for number in range(4)]
    found, _ = await told(journal, letters, time=TimeRange(START_NS + 1, START_NS + 3))
    assert [source for source, _ in found] == ["s1", "s2"]


async def test_letters_that_are_no_longer_known_one_by_one_are_said_to_be_missing(journal: EmbeddedJournal) -> None:
    many = [letter(0, b"x")] * LETTER_COUNT_MAX
    found, (missing,) = await told(journal, [letter(1, str(ALICE).encode())], many, [letter(2, str(ALICE).encode())])
    assert [source for source, _ in found] == ["s2"]
    assert str(LETTER_COUNT_MAX) in missing
