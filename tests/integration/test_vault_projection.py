"""The vault follows the journal through everything that happens to PostgreSQL: killed, away, older than it was, left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from heimdall_server.domain.errors import CorruptionError, StoreError
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import SIDECAR, encode, runs_of
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.ports.vault import Tombstone
from heimdall_server.projections.vault import VaultHooks, VaultLimits, VaultProgress, VaultProjection
from heimdall_server.projections.warm import ProjectionState, RetryPolicy
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.postgres.leftovers import processes_of
from heimdall_server.storage.postgres.opening import Postgres, open_postgres
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.journal import make_batch, opened, small_config
from tests.support.postgres import START_S, small_postgres
from tests.support.vaults import make_name, make_value, make_values
from tests.support.warm_process import SystemClock

QUICK = VaultLimits(batch_values=50, linger_s=0.01, idle_s=0.05)
PATIENT = RetryPolicy(first_wait_s=0.02, wait_s_max=0.1)


@dataclass
class Fed:
    """A journal and what was put into it."""

    journal: EmbeddedJournal
    values: dict[TokenName, SealedValue] = field(default_factory=dict)

    async def append(self, values: Sequence[SealedValue], *, body_bytes: int = 8) -> int:
        for value in values:
            self.values.setdefault(value.name, value)
        sidecars = {SIDECAR: encode(values)} if values else {}
        return (await self.journal.append([Entry(make_batch(["x" * body_bytes]), sidecars=sidecars)]))[0]


@pytest.fixture
async def fed(tmp_path: Path) -> AsyncIterator[Fed]:
    async with opened(small_config(tmp_path / "journal")) as journal:
        yield Fed(journal)


@pytest.fixture
def vault(postgres_pool: PostgresPool, postgres_clean: None) -> PostgresVault:  # noqa: ARG001 - empties it first
    return PostgresVault(postgres_pool)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every account can enter."""
    path = Path(tempfile.mkdtemp(prefix="heimdall-vault-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.asynccontextmanager
async def own_postgres(folder: Path) -> AsyncIterator[Postgres]:
    """One that may be killed, opened as a server does."""
    async with contextlib.AsyncExitStack() as stack:
        yield await open_postgres(
            small_postgres(connect_timeout_s=1.0, statement_timeout_s=5.0),
            data_dir=folder / "data_dir",
            keys_dir=folder / "keys",
            stack=stack,
            places=folder / "places",
        )


@contextlib.asynccontextmanager
async def following(
    journal: Journal, vault: PostgresVault, *, limits: VaultLimits = QUICK, hooks: VaultHooks | None = None
) -> AsyncIterator[VaultProjection]:
    projection = VaultProjection(journal, vault, SystemClock(), limits=limits, retry=PATIENT, hooks=hooks)
    task = asyncio.create_task(projection.run())
    try:
        yield projection
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def database_folder(folder: Path) -> Path:
    ours = folder / "data_dir" / "postgres"
    named = ours / "place"  # as root
    return (Path(named.read_text().strip()) if named.exists() else ours) / "data"


def signal_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def until(projection: VaultProjection, condition: Callable[[VaultProgress], bool]) -> None:
    async with asyncio.timeout(START_S):
        while not condition(projection.progress):  # noqa: ASYNC110 - what changes is another process
            await asyncio.sleep(0.01)


async def test_values_that_ride_in_frames_can_be_read_once_they_are_applied(fed: Fed, vault: PostgresVault) -> None:
    await fed.append(make_values("before", 10))
    async with following(fed.journal, vault) as projection:
        await fed.append([])
        last = await fed.append([*make_values("after", 10), make_value("other", data_class="iban")])
        assert await projection.wait_applied(last, START_S)
        assert await vault.get(list(fed.values)) == fed.values
        await until(projection, lambda now: now.noted == last)
        progress = projection.progress
    assert (progress.applied, progress.lag_positions, progress.lag_s) == (last, 0, 0.0)
    assert (progress.state, progress.value_count, progress.notice) == (ProjectionState.RUNNING, 21, "")
    assert await vault.applied(fed.journal.journal_id) == last


async def test_frames_without_values_pass_without_a_transaction_each(fed: Fed, vault: PostgresVault) -> None:
    steps: list[str] = []
    limits = VaultLimits(linger_s=0.0, idle_s=3_600.0)
    async with following(fed.journal, vault, limits=limits, hooks=VaultHooks(step=steps.append)) as projection:
        for _ in range(20):
            last = await fed.append([])
            assert await projection.wait_applied(last, START_S)
        assert projection.progress.noted == 0
    assert steps == ["begin"]


async def test_it_goes_on_where_it_was_and_applies_no_frame_twice(fed: Fed, vault: PostgresVault) -> None:
    for number in range(3):
        last = await fed.append(make_values(f"{number}/", 5))
        async with following(fed.journal, vault) as projection:
            assert await projection.wait_applied(last, START_S)
            assert projection.progress.value_count == 5


async def test_a_frame_with_more_values_than_a_batch_is_applied_in_parts(fed: Fed, vault: PostgresVault) -> None:
    steps: list[str] = []
    await fed.append(make_values("few", 20))
    last = await fed.append(make_values("many", 220))
    async with following(fed.journal, vault, hooks=VaultHooks(step=steps.append)) as projection:
        assert await projection.wait_applied(last, START_S)
    assert await vault.get(list(fed.values)) == fed.values
    assert steps.count("apply") == 5


async def test_an_erasure_keeps_its_values_out_of_what_is_replayed(fed: Fed, vault: PostgresVault) -> None:
    last = await fed.append(make_values("a", 3))
    await vault.bury([Tombstone(make_name("a1"), last, False, "e", 1)])
    async with following(fed.journal, vault) as projection:
        assert await projection.wait_applied(last, START_S)
        assert set(await vault.get(list(fed.values))) == {make_name("a0"), make_name("a2")}
        last = await fed.append([make_value("a1")])
        assert await projection.wait_applied(last, START_S)
        assert len(await vault.get(list(fed.values))) == 3


async def test_erasures_known_elsewhere_are_applied_before_anything_else(fed: Fed, vault: PostgresVault) -> None:
    last = await fed.append(make_values("a", 3))

    async def known() -> list[Tombstone]:
        return [Tombstone(make_name("a1"), last, True, "e", 1)]

    async with following(fed.journal, vault, hooks=VaultHooks(tombstones=known)) as projection:
        assert await projection.wait_applied(last, START_S)
    assert set(await vault.get(list(fed.values))) == {make_name("a0"), make_name("a2")}
    assert set(await vault.tombstones(list(fed.values))) == {make_name("a1")}


async def test_frames_that_are_gone_are_told_for_good_and_it_goes_on_behind_them(
    fed: Fed, vault: PostgresVault
) -> None:
    while fed.journal.tail()[0] < 3:
        await fed.append(make_values(f"{len(fed.values)}/", 2), body_bytes=20_000)
        await fed.journal.trim(fed.journal.head())
    tail = fed.journal.tail()[0]
    last = await fed.append(make_values("late", 2))
    for _ in range(2):
        async with following(fed.journal, vault) as projection:
            assert await projection.wait_applied(last, START_S)
            progress = projection.progress
        assert progress.needs_rebuild
        assert f"positions 1 to {tail - 1}:" in progress.notice
    assert {make_name("late0"), make_name("late1")} <= set(await vault.get(list(fed.values)))


async def test_frames_that_go_while_it_is_held_up_are_told_too(fed: Fed, vault: PostgresVault) -> None:
    async with following(fed.journal, vault) as projection:
        first = await fed.append(make_values("first", 2))
        assert await projection.wait_applied(first, START_S)
        await until(projection, lambda now: now.noted == first)
        with pytest.MonkeyPatch.context() as patch:

            async def away(*_: object, **__: object) -> int:
                raise StoreError("postgres", "it can't be reached")

            patch.setattr(vault, "applied", away)
            held = await fed.append(make_values("held", 2))
            await until(projection, lambda now: now.state is ProjectionState.RETRYING)
            while fed.journal.tail()[0] <= held + 1:
                await fed.append(make_values(f"{len(fed.values)}/", 2), body_bytes=20_000)
                await fed.journal.trim(fed.journal.head())
            tail = fed.journal.tail()[0]
        last = await fed.append(make_values("late", 2))
        assert await projection.wait_applied(last, START_S)
        assert projection.progress.needs_rebuild
        assert projection.progress.state is ProjectionState.RUNNING
    (gap,) = await vault.gaps(fed.journal.journal_id)
    assert gap == (held + 1, tail - 1)
    assert make_name("held0") in await vault.get([make_name("held0")])


async def test_a_journal_restored_from_a_backup_is_applied_from_its_beginning(fed: Fed, vault: PostgresVault) -> None:
    last = await fed.append(make_values("a", 3))
    await vault.apply([], [], journal_id=fed.journal.journal_id, through=last + 50)
    async with following(fed.journal, vault) as projection:
        assert await projection.wait_applied(last, START_S)
    assert await vault.get(list(fed.values)) == fed.values
    assert await vault.applied(fed.journal.journal_id) == last


async def test_values_whose_keys_are_gone_make_room_for_fresh_copies(fed: Fed, vault: PostgresVault) -> None:
    dead = [*make_values("a", 3), make_value("a", data_class="iban")]
    last = await fed.append(dead)
    async with following(fed.journal, vault) as projection:
        assert await projection.wait_applied(last, START_S)
    fresh = [make_value("a0", generation=2), make_value("new", generation=3)]
    await fed.append([make_value("a1"), make_value("new")])
    last = await fed.append(fresh)
    told: list[int] = []
    hooks = VaultHooks(destroyed=lambda: {"email": {1}}, on_discarded=told.append)
    for _ in range(2):
        async with following(fed.journal, vault, hooks=hooks) as projection:
            assert await projection.wait_applied(last, START_S)
        found = await vault.get([value.name for value in [*dead, *fresh]])
        assert found == {value.name: value for value in [*fresh, dead[-1]]}
    assert told == [3]
    assert (await vault.state()).value_count == 3


async def test_what_comes_into_a_restored_journal_is_not_taken_for_erased(fed: Fed, vault: PostgresVault) -> None:
    head = await fed.append(make_values("a", 3))
    journal_id = fed.journal.journal_id
    await vault.apply([], [], journal_id=journal_id, through=head + 50)
    newer = make_values("newer", 2)
    runs = runs_of(newer)
    await vault.apply(runs, [head + 40] * len(runs), journal_id=journal_id, through=head + 50)
    await vault.bury([Tombstone(make_name("a1"), head + 50, False, "e", 1)])

    async def known() -> list[Tombstone]:  # cut at the same head, as the ledger's are
        return [Tombstone(make_name("a1"), head, False, "e", 1)]

    async with following(fed.journal, vault, hooks=VaultHooks(tombstones=known)) as projection:
        assert await projection.wait_applied(head, START_S)
        assert set(await vault.get(list(fed.values))) == {make_name("a0"), make_name("a2")}
        again = await fed.append([make_value("a1", generation=2)])
        assert await projection.wait_applied(again, START_S)
        assert (await vault.get([make_name("a1")]))[make_name("a1")].generation == 2
        assert await vault.bury([Tombstone(make_name("newer0"), head, False, "e", 1)]) == 1


async def test_where_a_restored_journal_ended_counts_however_long_the_vault_is_away(
    fed: Fed, vault: PostgresVault
) -> None:
    head = await fed.append(make_values("a", 3))
    await vault.apply([], [], journal_id=fed.journal.journal_id, through=head + 5)
    with pytest.MonkeyPatch.context() as patch:

        async def away(*_: object, **__: object) -> None:
            raise StoreError("postgres", "it can't be reached")

        patch.setattr(vault, "rewind", away)
        async with following(fed.journal, vault) as projection:
            await until(projection, lambda now: now.state is ProjectionState.RETRYING)
            for number in range(10):
                last = await fed.append(make_values(f"{number}/", 2))
            patch.undo()
            assert await projection.wait_applied(last, START_S)
    assert await vault.get(list(fed.values)) == fed.values


async def test_values_that_it_cannot_read_stop_it_with_a_sentence(fed: Fed, vault: PostgresVault) -> None:
    await fed.journal.append([Entry(None, sidecars={SIDECAR: b"\x07whatever"})])
    projection = VaultProjection(fed.journal, vault, SystemClock(), limits=QUICK)
    with pytest.raises(CorruptionError, match="version 7"):
        await projection.run()
    assert projection.progress.state is ProjectionState.FAILED
    assert "version 7" in projection.progress.problem


async def test_a_postmaster_that_is_killed_in_mid_apply_costs_nothing(fed: Fed, folder: Path) -> None:
    async with own_postgres(folder) as postgres:
        vault = PostgresVault(postgres.pool)
        kills = 0

        def kill(step: str) -> None:
            nonlocal kills
            state = postgres.embedded
            if step == "apply" and state is not None and state.running and kills < 2:
                kills += 1
                asyncio.get_running_loop().call_later(0.002 * kills, os.kill, state.pid, signal.SIGKILL)

        async with following(fed.journal, vault, hooks=VaultHooks(step=kill)) as projection:
            for number in range(40):
                last = await fed.append(make_values(f"{number}/", 30))
            assert await projection.wait_applied(last, START_S)
            assert projection.progress.retry_count
        assert kills == 2
        assert await vault.get(list(fed.values)) == fed.values
        assert (await vault.state()).value_count == len(fed.values)


async def test_while_postgres_is_away_frames_are_taken_in_and_it_catches_up(fed: Fed, folder: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(own_postgres(folder))
        vault = PostgresVault(postgres.pool)
        projection = await stack.enter_async_context(following(fed.journal, vault))
        assert await projection.wait_applied(await fed.append(make_values("before", 5)), START_S)
        hanging = processes_of(database_folder(folder))
        signal_all(hanging, signal.SIGSTOP)  # it doesn't even refuse
        try:
            for number in range(20):
                async with asyncio.timeout(5):  # each far sooner than anything waits for postgres
                    last = await fed.append(make_values(f"{number}/", 5))
            with pytest.raises(StoreError):
                await vault.get([make_name("0/0")])
            await until(projection, lambda now: now.state is ProjectionState.RETRYING and now.lag_positions == 20)
            assert projection.progress.lag_s > 0
        finally:
            signal_all(hanging, signal.SIGCONT)
        assert await projection.wait_applied(last, START_S)
        assert projection.progress.state is ProjectionState.RUNNING
        assert await vault.get(list(fed.values)) == fed.values


async def test_an_older_backup_is_caught_up_and_what_was_erased_since_stays_erased(fed: Fed, folder: Path) -> None:
    async with own_postgres(folder) as postgres:
        vault = PostgresVault(postgres.pool)
        async with following(fed.journal, vault) as projection:
            assert await projection.wait_applied(await fed.append(make_values("before", 5)), START_S)
    data = database_folder(folder)
    backup = folder / "backup"
    os.system(f"cp -a {data} {backup}")  # noqa: S605, ASYNC221 - keeps the owner
    erased = [make_name("before1"), make_name("after1")]
    async with own_postgres(folder) as postgres:
        vault = PostgresVault(postgres.pool)
        async with following(fed.journal, vault) as projection:
            last = await fed.append(make_values("after", 5))
            assert await projection.wait_applied(last, START_S)
        ledger = [Tombstone(name, last, False, "e", 1) for name in erased]
        assert await vault.bury(ledger) == 2

    shutil.rmtree(data)
    backup.rename(data)

    async def known() -> list[Tombstone]:
        return ledger

    back: list[bool] = []
    hooks = VaultHooks(tombstones=known, on_back=lambda: back.append(True))
    async with own_postgres(folder) as postgres:
        vault = PostgresVault(postgres.pool)
        for _ in range(2):
            async with following(fed.journal, vault, hooks=hooks) as projection:
                assert await projection.wait_applied(last, START_S)
        assert back == [True]
        kept = {name: value for name, value in fed.values.items() if name not in erased}
        assert await vault.get(list(fed.values)) == kept
        assert set(await vault.tombstones(erased)) == set(erased)


async def test_an_older_database_that_is_put_in_its_place_while_it_runs_is_noticed(
    fed: Fed, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    async with following(fed.journal, vault) as projection:
        last = await fed.append(make_values("a", 3))
        assert await projection.wait_applied(last, START_S)
        await until(projection, lambda now: now.noted == last)
        async with postgres_pool.connection() as connection:
            await connection.execute("TRUNCATE vault_value, vault_count, vault_progress")
        last = await fed.append(make_values("b", 3))
        assert await projection.wait_applied(last, START_S)
        await until(projection, lambda now: now.lag_positions == 0)
        assert await vault.get(list(fed.values)) == fed.values
