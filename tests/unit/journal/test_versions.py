"""A journal whose frames an older version of the record schema wrote."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.domain.records import RECORD_SCHEMA, SCHEMA_VERSION
from heimdall_server.ports.journal import Entry
from heimdall_server.storage.journal import journal as journal_module
from heimdall_server.storage.journal import segment_file, writer
from tests.support.journal import LastOffsets, make_entry, name_of, opened, read_all, small_config

LATER = ("tlp", "resource_bool", "tokens", "principal")
OLD_SCHEMA = pa.schema([field for field in RECORD_SCHEMA if field.name not in LATER])


def old_entry(name: str) -> Entry:
    """An entry as the older version made it."""
    entry = make_entry(name)
    assert entry.batch is not None
    return Entry(entry.batch.select(OLD_SCHEMA.names), sources=entry.sources)


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The program before some columns came; undone, it is today's."""
    for module, name, value in (
        (segment_file, "RECORD_SCHEMA", OLD_SCHEMA),
        (journal_module, "RECORD_SCHEMA", OLD_SCHEMA),
        (segment_file, "SCHEMA_VERSION", SCHEMA_VERSION - 1),
        (writer, "SCHEMA_VERSION", SCHEMA_VERSION - 1),
    ):
        monkeypatch.setattr(module, name, value)
    return monkeypatch


async def test_frames_of_an_older_schema_are_read_with_defaults_for_what_came_later(
    tmp_path: Path, older: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path / "journal", retain_bytes=1 << 20)
    async with opened(config) as journal:
        await journal.maintain(LastOffsets())
        await journal.append([old_entry("old")])
    older.undo()
    async with opened(config) as journal:
        state = LastOffsets()
        await journal.maintain(state)
        assert set(state.offsets) == {"old"}
        await journal.append([make_entry("new")])
        frames = [frame for frame in await read_all(journal) if frame.entry.batch is not None]
        assert [name_of(frame) for frame in frames] == ["old", "new"]
        for frame in frames:
            assert frame.entry.batch is not None
            assert frame.entry.batch.schema == RECORD_SCHEMA
            assert frame.entry.batch.column("tlp").to_pylist() == ["", ""]
            assert frame.entry.batch.column("principal").to_pylist() == ["", ""]
            assert frame.entry.batch.column("resource_bool").to_pylist() == [[], []]
            assert frame.entry.batch.column("body").to_pylist()[0].startswith(f"{name_of(frame)}/0")


async def test_an_older_program_refuses_what_a_newer_one_wrote_and_leaves_it_alone(
    tmp_path: Path, older: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path / "journal")
    older.undo()
    older.setattr(segment_file, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    async with opened(config) as journal:
        await journal.append([make_entry("new")])
    older.undo()
    before = {path.name: path.read_bytes() for path in config.path.glob("*.segment")}
    with pytest.raises(ConfigurationError, match="upgrade the server"):
        async with opened(config):
            pass
    assert {path.name: path.read_bytes() for path in config.path.glob("*.segment")} == before
