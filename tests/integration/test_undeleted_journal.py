"""The journal as watches see it, behind a deletion."""

from __future__ import annotations

from pathlib import Path

import pytest

from heimdall_server.domain.errors import NotFoundError
from heimdall_server.ports.journal import Deletion, Entry
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.wiring.undeleted import JournalWithoutDeleted
from tests.support.journal import make_batch, opened, small_config


async def test_what_was_deleted_is_refused_and_what_came_later_is_read(tmp_path: Path) -> None:
    state = IngestState(source_count_max=10)
    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.maintain(state)
        undeleted = JournalWithoutDeleted(journal, lambda: state.deleted_through)
        await journal.append([Entry(make_batch([f"row {n}"])) for n in range(3)])
        assert undeleted.tail() == journal.tail() == {0: 1}
        begun = undeleted.read(0, after=0, through=3)
        assert (await anext(begun)).position == 1
        await journal.append([Entry(None, deletions=(Deletion("d", "row", None, None, (), 2),))])
        assert undeleted.tail() == {0: 3}
        with pytest.raises(NotFoundError):
            await anext(begun)
        with pytest.raises(NotFoundError):
            await anext(undeleted.read(0, after=1, through=3))
        assert [frame.position async for frame in undeleted.read(0, after=2, through=4)] == [3, 4]
