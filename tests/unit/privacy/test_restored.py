"""A backup of the journal from before a deletion doesn't bring back what was deleted, and one from before an erasure isn't taken for erased later."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from heimdall_server.domain.operations import ErasureScope, Operation, OperationKind, OperationState
from heimdall_server.ports.journal import Deletion
from heimdall_server.services.privacy.logic.kinds.deletion import RecordDeletion
from heimdall_server.services.privacy.logic.kinds.erasure import erased_by
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.services.privacy.logic.restored import DeletionsAfterRestore, ErasuresAfterRestore
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.ledger.ledger import FileLedger
from tests.support.journal import ManualClock, make_entry, opened, small_config
from tests.support.sealed_filters import FILTERS
from tests.support.vaults import make_name
from tests.support.warm_process import SystemClock

QUERY = "hunter2"


class Started:
    """The deletions of a process."""

    def __init__(self, journal: EmbeddedJournal, runner: OperationRunner, audit: FileAuditLog) -> None:
        self.journal = journal
        self.runner = runner
        self.audit = audit

    async def deleted(self, operation_id: str) -> Operation:
        """A deletion once the stores are without the records."""
        async for seen in self.runner.watch(operation_id):
            if seen.ended or seen.inaccessible_time_ns:
                return seen
        raise AssertionError("it never ended")

    async def delete(self) -> Operation:
        made = await self.runner.create(OperationKind.DELETE, actor="anna", reason="a leak", identity="i", query=QUERY)
        return await self.deleted(made.operation_id)

    async def written(self) -> list[Deletion]:
        """What the journal says."""
        frames = self.journal.read_control(0, after=0, through=self.journal.head()[0])
        return [deletion async for frame in frames for deletion in frame.entry.deletions]


@asynccontextmanager
async def started(folder: Path, *, tail_passes: bool = False) -> AsyncIterator[Started]:
    """A process on what a folder has; with `tail_passes` deletions end at once."""
    clock = SystemClock()
    ledger = await FileLedger.open(folder / "privacy", clock=clock, filters=FILTERS)
    audit = await FileAuditLog.open(folder / "audit", clock=clock, mask_text=str)
    async with opened(small_config(folder / "journal")) as journal:

        async def barrier() -> int:
            return journal.head()[0]

        async def stored(position: int, timeout_s: float) -> bool:
            del timeout_s
            if tail_passes:
                await journal.append([make_entry("s")])
                await journal.trim({0: position})
            return True

        steps = RecordDeletion(
            journal, clock, barrier=barrier, wait_stored=stored, deleted_count=lambda _: 1, live_epochs=list
        )
        runner = OperationRunner(ledger.operations, clock, mask_text=str)
        runner.register(OperationKind.DELETE, lambda: steps)
        deletions = DeletionsAfterRestore(ledger.operations, journal.journal_id, journal.head().get(0, 0))
        await deletions.rewind(clock.now_ns())
        await runner.start()
        await deletions.repeat(runner, AuditTrail(audit))
        try:
            yield Started(journal, runner, audit)
        finally:
            await runner.close()
    await ledger.close()
    await audit.close()


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    """A folder of a journal with some records, and a copy of it, `backup`."""
    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.append([make_entry("s") for _ in range(3)])
    return Path(shutil.copytree(tmp_path / "journal", tmp_path / "backup"))


def restore(backup: Path) -> None:
    """Put the copy in the journal's place."""
    shutil.rmtree(backup.parent / "journal")
    shutil.copytree(backup, backup.parent / "journal")


async def test_a_deletion_under_way_is_written_into_the_restored_journal_and_spares_what_comes_later(
    backup: Path,
) -> None:
    async with started(backup.parent) as first:
        await first.journal.append([make_entry("s")])
        operation = await first.delete()
    restore(backup)
    async with started(backup.parent) as later:
        await later.journal.append([make_entry("s")])
        again = await later.deleted(operation.operation_id)
        assert again.state is OperationState.RUNNING
        assert [(one.deletion_id, one.filter, one.through) for one in await later.written()] == [
            (operation.operation_id, QUERY, 3)
        ]
    async with started(backup.parent) as calm:
        assert len(await calm.written()) == len(calm.runner.list()) == 1


async def test_one_that_had_ended_is_repeated_once_and_audited(backup: Path) -> None:
    async with started(backup.parent, tail_passes=True) as first:
        operation = await first.delete()
        async for seen in first.runner.watch(operation.operation_id):
            operation = seen
        assert operation.state is OperationState.DONE
    restore(backup)
    async with started(backup.parent) as later:
        (repeated, done) = later.runner.list()
        assert (done.operation_id, done.state) == (operation.operation_id, OperationState.DONE)
        await later.deleted(repeated.operation_id)
        assert [(one.deletion_id, one.filter, one.through) for one in await later.written()] == [
            (repeated.operation_id, QUERY, 3)
        ]
        acts = [entry.act async for entry in later.audit.read()]
        assert [(act.actor, act.action, act.subject) for act in acts] == [
            ("system", "privacy.delete", operation.operation_id)
        ]
    restore(backup)
    async with started(backup.parent) as twice:
        assert len(twice.runner.list()) == 2
        await twice.deleted(repeated.operation_id)
        assert [one.deletion_id for one in await twice.written()] == [repeated.operation_id]


async def test_another_journal_is_none_of_its_business(backup: Path) -> None:
    async with started(backup.parent) as first:
        operation = await first.delete()
    shutil.rmtree(backup.parent / "journal")
    async with opened(small_config(backup.parent / "journal")) as journal:
        await journal.append([make_entry("s")])
    async with started(backup.parent) as other:
        assert [one.operation_id for one in other.runner.list()] == [operation.operation_id]
        assert await other.written() == []


def reaching(operation_id: str, kind: OperationKind, state: OperationState, **facts: int) -> Operation:
    """An operation that reaches through some positions."""
    scope = ErasureScope(tokens=(str(make_name(operation_id)),))
    return Operation(operation_id, kind, "anna", "art. 17", 1, 1, state=state, scope=scope, facts=facts)


async def reaches(folder: Path, clock: ManualClock, *, new_frames: int) -> dict[str, tuple[int, ...]]:
    """Start on what a folder has, and let frames come in: how far each operation reaches then."""
    ledger = await FileLedger.open(folder / "privacy", clock=clock, filters=FILTERS)
    clock.advance(60)
    async with opened(small_config(folder / "journal"), clock=clock) as journal:
        await ErasuresAfterRestore(ledger.operations, journal).cut(clock.now_ns())
        clock.advance(60)
        for _ in range(new_frames):
            await journal.append([make_entry("s")])
    found = {
        one.operation_id: tuple(one.facts[name] for name in ("through", "last_sealed") if name in one.facts)
        for one in await ledger.operations.load()
    }
    told = {one.operation_id: erased_by(one) for one in await ledger.operations.load()}
    assert {name: [one.through for one in stones] for name, stones in told.items() if stones} == {
        name: [found[name][0]] for name in ("old", "done", "running")
    }
    await ledger.close()
    return found


async def test_an_erasure_reaches_as_far_as_the_journal_and_again_as_before_when_the_newer_one_is_back(
    backup: Path,
) -> None:
    folder, clock = backup.parent, ManualClock()
    clock.advance(60)
    async with opened(small_config(folder / "journal"), clock=clock) as journal:
        await journal.append([make_entry("s") for _ in range(3)])
    newer = shutil.copytree(folder / "journal", folder / "newer")
    ledger = await FileLedger.open(folder / "privacy", clock=clock, filters=FILTERS)
    for one in (
        reaching("old", OperationKind.ERASE, OperationState.DONE, through=2),
        reaching("done", OperationKind.ERASE, OperationState.DONE, through=6),
        reaching("running", OperationKind.ERASE, OperationState.RUNNING, through=5, last_sealed=6),
        reaching("rotation", OperationKind.ROTATE_DEK, OperationState.RUNNING, last_sealed=5),
        reaching("index", OperationKind.ROTATE_INDEX, OperationState.DONE, through=6),
    ):
        await ledger.operations.write(one)
    await ledger.close()
    before = {"old": (2,), "done": (6,), "running": (5, 6), "rotation": (5,), "index": (6,)}
    assert await reaches(folder, clock, new_frames=0) == before
    restore(backup)
    cut = before | {"done": (3,), "running": (3, 3), "rotation": (3,)}
    assert await reaches(folder, clock, new_frames=2) == cut
    # Behind the head that cut them there are newer frames now, and what came in there isn't erased.
    assert await reaches(folder, clock, new_frames=20) == cut
    assert await reaches(folder, clock, new_frames=1) == cut
    restore(newer.rename(folder / "backup of the newer"))
    assert await reaches(folder, clock, new_frames=1) == before
    assert await reaches(folder, clock, new_frames=1) == before
