"""Rotations and erasures that are killed at every step, and go on: real keyring, vault, journal and projection; the end is always the same.

A kill is an error that nothing catches, before or after a call takes effect. Behind it everything that was in memory is made anew: the
keyring from its file, the cache, the operation as it was last durable.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.opening import KeyPlaces, OpenKeyring, open_keyring, rotate_kek
from heimdall_server.crypto.key_file import mint_key
from heimdall_server.domain.errors import KeyDestroyedError, OperationStateError
from heimdall_server.domain.operations import ErasureScope, Operation, OperationKind
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import SIDECAR, encode
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.ports.journal import Entry
from heimdall_server.projections.graph.removal import GraphRemoval
from heimdall_server.projections.vault import VaultLimits, VaultProjection
from heimdall_server.protect.blocklist import Blocklist
from heimdall_server.protect.sealed_lately import SealedLately
from heimdall_server.services.privacy.logic.kinds.erasure import Erasure, blocked_by
from heimdall_server.services.privacy.logic.kinds.model import PrivacyPorts
from heimdall_server.services.privacy.logic.kinds.rotation import DekRotation, IndexRotation, KekRotation
from heimdall_server.services.privacy.logic.kinds.shredding import RESEALED
from heimdall_server.services.privacy.logic.steps import Progress, Steps
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.postgres.graph.erasing import PostgresGraphEraser
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.journal import ManualClock, make_batch, opened, small_config
from tests.support.warm_process import SystemClock

CLASSES = ("email", "phone")
VALUES = [("email", f"user{number}@example.com") for number in range(6)] + [("phone", "+4930123456")]
ERASED = ("email", "user1@example.com")
STEPS_MAX = 60


class Killed(BaseException):
    """Nothing may take it for an error of an engine."""


@dataclass
class Fuse:
    """Kills at one of the moments at which a run could be killed."""

    at: int
    moments: list[str] = field(default_factory=list)

    def burn(self, moment: str) -> None:
        self.moments.append(moment)
        if len(self.moments) == self.at:
            raise Killed


class Fragile:
    """Something whose calls may be the last ones, before or after they take effect."""

    def __init__(self, target: object, fuse: Fuse, *names: str) -> None:
        self._target, self._fuse, self._names = target, fuse, names

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name not in self._names:
            return attribute

        async def later(*arguments: Any, **named: Any) -> Any:
            self._fuse.burn(f"before {name}")
            answer = await attribute(*arguments, **named)
            self._fuse.burn(f"after {name}")
            return answer

        def now(*arguments: Any, **named: Any) -> Any:
            self._fuse.burn(f"before {name}")
            answer = attribute(*arguments, **named)
            self._fuse.burn(f"after {name}")
            return answer

        return later if inspect.iscoroutinefunction(attribute) else now


@dataclass
class Kept:
    """A ledger of one operation. Implements `Keeper`."""

    operation: Operation

    def get(self, operation_id: str) -> Operation:
        del operation_id
        return self.operation

    async def change(self, operation_id: str, **changes: Any) -> Operation:
        del operation_id
        self.operation = self.operation.changed(now_ns=1, **changes)
        return self.operation

    def show(self, operation_id: str, **counts: int) -> None:
        del operation_id
        self.operation = self.operation.changed(now_ns=1, **counts)


@dataclass
class World:
    """What outlives a kill, and what is made anew behind it."""

    folder: Path
    journal: EmbeddedJournal
    vault: PostgresVault
    pool: PostgresPool
    follower: VaultProjection
    opened: OpenKeyring
    places: KeyPlaces
    blocklist: Blocklist = field(default_factory=Blocklist)

    async def restart(self) -> None:
        self.opened = await open_keyring(KekConfig(), self.places, classes=CLASSES)
        self.blocklist = Blocklist()

    async def put(self, values: Sequence[tuple[str, str]]) -> list[SealedValue]:
        """A frame that carries values, as the pipeline would write it."""
        ring = self.opened.keyring
        sealed = [
            one
            for data_class, value in values
            for one in ring.seal(data_class, ring.words(data_class, [value]), [value])
        ]
        (position,) = await self.journal.append([Entry(make_batch(["x"]), sidecars={SIDECAR: encode(sealed)})])
        assert await self.follower.wait_applied(position, 20)
        return sealed

    async def let_go(self) -> None:
        """Time passes: the journal lets go of everything that was in it."""
        before = self.journal.head()[0]
        while self.journal.tail()[0] <= before:
            await self.journal.append([Entry(make_batch(["x" * 20_000]))])
            await self.journal.trim(self.journal.head())

    def ports(self, fuse: Fuse) -> PrivacyPorts:
        async def barrier() -> int:
            return self.journal.head()[0]

        class Barrier:
            wait = staticmethod(barrier)

        ring = self.opened.keyring
        return PrivacyPorts(
            cast("Any", Fragile(ring, fuse, "new_generation", "destroy_generation", "new_epoch")),
            ring,
            ring,
            cast("Any", Fragile(self.vault, fuse, "bury", "replace")),
            self.follower,
            cast("Any", Fragile(SealedLately(), fuse, "clear", "forget")),
            cast("Any", Fragile(self.blocklist, fuse, "block")),
            ErasedValues(),
            cast("Any", Fragile(GraphRemoval(PostgresGraphEraser(self.pool)), fuse, "erase")),
            self.journal,
            Fragile(Barrier(), fuse, "wait").wait,
            ManualClock(),
            batch_values=2,
        )

    async def plain(self, values: Sequence[tuple[str, str]]) -> dict[str, str]:
        """What of some values can be found by their tokens of all epochs, and read."""
        ring, found = self.opened.keyring, {}
        for data_class, value in values:
            names = [TokenName(data_class, word) for word in ring.words_of_all_epochs(data_class, value)]
            for sealed in (await self.vault.get(names)).values():
                found[value] = ring.open(sealed)
        return found


@asynccontextmanager
async def world(folder: Path, vault: PostgresVault, pool: PostgresPool) -> AsyncIterator[World]:
    mint_key(folder / "keys" / "root.key")
    places = KeyPlaces(folder / "keys" / "keyring", folder / "keys" / "root.key", folder / "data" / "keyring.id", None)
    opened_ring = await open_keyring(KekConfig(), places, classes=CLASSES)
    async with opened(small_config(folder / "journal")) as journal:
        limits = VaultLimits(linger_s=0.0, idle_s=0.02)
        follower = VaultProjection(journal, vault, SystemClock(), limits=limits)
        following = asyncio.create_task(follower.run())
        try:
            yield World(folder, journal, vault, pool, follower, opened_ring, places)
        finally:
            following.cancel()
            await asyncio.wait({following})
    shutil.rmtree(folder)


def asked_for(made: World, kind: OperationKind) -> Operation:
    """An operation as its use case begins it."""
    ring, (data_class, value) = made.opened.keyring, ERASED
    tokens = tuple(f"[{data_class}:{word}]" for word in ring.words_of_all_epochs(data_class, value))
    erasure = {
        "classes": [data_class],
        "epochs": list(ring.live_epochs),
        "block": True,
        "digests": ring.digests(data_class, [value]),
    }
    return Operation(
        "o-1",
        kind,
        "somebody",
        "for a test",
        1,
        1,
        parameters=erasure if kind is OperationKind.ERASE else {"classes": []},
        scope=ErasureScope(tokens=tokens) if kind is OperationKind.ERASE else None,
    )


def steps_of(made: World, kind: OperationKind, fuse: Fuse) -> Steps:
    async def rotate() -> str:
        made.opened = await rotate_kek(made.opened, made.places)
        return made.opened.kek.key_id

    class Rotate:
        kek = staticmethod(rotate)

    ports = made.ports(fuse)
    steps: dict[OperationKind, Callable[[], Steps]] = {
        OperationKind.ERASE: lambda: Erasure(ports),
        OperationKind.ROTATE_DEK: lambda: DekRotation(ports),
        OperationKind.ROTATE_INDEX: lambda: IndexRotation(ports),
        OperationKind.ROTATE_KEK: lambda: KekRotation(ports, rotate=Fragile(Rotate(), fuse, "kek").kek),
    }
    return steps[kind]()


async def carried_out(made: World, kept: Kept, fuse: Fuse) -> None:
    """Run an operation to its end; what comes in meanwhile is found, too. Killed once, if the fuse says so."""
    kind = kept.operation.kind
    for _ in range(STEPS_MAX):
        try:
            progress = Progress(cast("Any", Fragile(kept, fuse, "change")), "o-1")
            if await steps_of(made, kind, fuse).run(kept.operation, progress) is None:
                return
        except Killed:
            await made.restart()
            made.blocklist.block(*blocked_by(kept.operation))
            await made.put([("email", "meanwhile@example.com")])
            continue
        await made.let_go()
    raise AssertionError(f"it never ends: {kept.operation}")


async def check_end(made: World, kept: Kept, before: Sequence[SealedValue]) -> None:
    """What must hold behind each kind, whatever happened on the way."""
    operation, ring = kept.operation, made.opened.keyring
    erased = operation.kind is OperationKind.ERASE
    wanted = {value: value for _, value in VALUES if not (erased and value == ERASED[1])}
    assert await made.plain(VALUES) == wanted
    assert await ring.verify() == []
    again = await open_keyring(KekConfig(), made.places, classes=CLASSES)
    assert again.keyring.list() == ring.list()
    if operation.kind is OperationKind.ROTATE_KEK:
        assert {key.wrapped_by for key in ring.list() if key.wrapped_by} == {operation.facts["wrapped_by"]}
        return
    if operation.kind is OperationKind.ROTATE_INDEX:
        assert ring.live_epochs[-1] == operation.facts["epoch"]
        assert len(ring.live_epochs) == 2
        assert operation.facts["through"] >= 1
        return
    rotated = ("email",) if erased else CLASSES
    for value in before:
        if value.name.data_class in rotated:
            with pytest.raises(KeyDestroyedError):
                ring.open(value)
        else:
            ring.open(value)
    for data_class in rotated:
        assert await made.vault.count_older_than(data_class, ring.generation(data_class)) == 0
    destroyed = {(key["data_class"], key["generation"]) for key in operation.facts["keys_destroyed"]}
    assert {(name, 1) for name in rotated} <= destroyed
    if erased:
        assert operation.inaccessible_time_ns
        assert operation.shredded_time_ns
        # A kill between the deletion and its note may lose the count; those that were sealed anew are never in it.
        assert operation.facts["values_deleted"] <= 1 < operation.affected_count
        name = TokenName.parse(operation.scope.tokens[0]) if operation.scope else None
        assert name is not None
        assert (await made.vault.tombstones([name]))[name].blocked
        assert made.blocklist.of("email") == frozenset(operation.parameters["digests"])


@pytest.fixture
def vault(postgres_pool: PostgresPool, postgres_clean: None) -> PostgresVault:  # noqa: ARG001 - empties it first
    return PostgresVault(postgres_pool)


async def empty(pool: PostgresPool) -> None:
    async with pool.connection() as connection:
        await connection.execute("TRUNCATE vault_value, vault_count, vault_tombstone, vault_progress, vault_gap")


@pytest.mark.parametrize("effect", ["before it", "behind it"])
@pytest.mark.parametrize(
    "kind", [OperationKind.ROTATE_KEK, OperationKind.ROTATE_DEK, OperationKind.ROTATE_INDEX, OperationKind.ERASE]
)
async def test_an_operation_killed_at_any_step_ends_as_if_it_never_was(
    kind: OperationKind, effect: str, tmp_path: Path, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    moments, at = STEPS_MAX, 0
    while at <= moments:
        await empty(postgres_pool)
        async with world(tmp_path / "world", vault, postgres_pool) as made:
            before = await made.put(VALUES)
            kept, fuse = Kept(asked_for(made, kind)), Fuse(at)
            await carried_out(made, kept, fuse)
            await check_end(made, kept, before)
        if at == 0:
            moments, at = len(fuse.moments), 1 if effect == "before it" else 2
        else:
            assert fuse.moments[at - 1].startswith("before" if effect == "before it" else "after")
            at += 2
    assert moments >= 6


async def test_a_rotation_of_data_keys_says_when_only_the_destruction_is_left(
    tmp_path: Path, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    async with world(tmp_path / "world", vault, postgres_pool) as made:
        await made.put(VALUES)
        kept = Kept(asked_for(made, OperationKind.ROTATE_DEK))
        wait = await steps_of(made, OperationKind.ROTATE_DEK, Fuse(0)).run(
            kept.operation, Progress(cast("Any", kept), "o-1")
        )
        assert wait is not None
        assert wait.stage.startswith(RESEALED)
        assert "the journal has let go of position 1, about 2023-11-" in wait.stage
        assert await vault.count_older_than("email", 2) == 0
        assert "keys_destroyed" not in kept.operation.facts


@pytest.mark.parametrize("kind", [OperationKind.ROTATE_DEK, OperationKind.ERASE])
async def test_values_that_nobody_can_open_hold_no_operation_up(
    kind: OperationKind, tmp_path: Path, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    async with world(tmp_path / "world", vault, postgres_pool) as made:
        (dead,) = await made.put([("email", "dead@example.com")])
        await made.opened.keyring.new_generation("email")
        await made.opened.keyring.destroy_generation("email", 1)
        changed, *_ = await made.put(VALUES)
        async with postgres_pool.connection() as connection:
            await connection.execute(
                "UPDATE vault_value SET sealed = overlay(sealed placing '\\x00' from 60) WHERE word = %s",
                (changed.name.word,),
            )
        kept, fuse = Kept(asked_for(made, kind)), Fuse(0)
        wait = await steps_of(made, kind, fuse).run(kept.operation, Progress(kept, "o-1"))
        assert wait is not None
        assert "1 of the values were changed in the database" in wait.stage
        # What was changed stays, in case a backup has it, until its key is gone.
        assert set(await vault.get([dead.name, changed.name])) == {changed.name}
        await carried_out(made, kept, fuse)
        assert set(await vault.get([dead.name, changed.name])) == set()
        assert await vault.count_older_than("email", made.opened.keyring.generation("email")) == 0
        wanted = {value: value for _, value in VALUES[1:] if not (kind is OperationKind.ERASE and value == ERASED[1])}
        assert await made.plain(VALUES) == wanted
        await made.put([VALUES[0], ("email", "dead@example.com")])
        assert len(await made.plain([VALUES[0], ("email", "dead@example.com")])) == 2


async def test_a_blocked_value_stays_out_of_epochs_that_begin_while_it_is_erased(
    tmp_path: Path, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    async with world(tmp_path / "world", vault, postgres_pool) as made:
        await made.put(VALUES)
        kept = Kept(asked_for(made, OperationKind.ERASE))
        await made.opened.keyring.new_epoch()
        await made.put(VALUES)
        await carried_out(made, kept, Fuse(0))
        assert ERASED[1] not in await made.plain(VALUES)
        assert kept.operation.scope is not None
        assert len(kept.operation.scope.tokens) == 2


async def test_an_epoch_that_begins_behind_the_tokens_keeps_no_value_from_being_erased(
    tmp_path: Path, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    async with world(tmp_path / "world", vault, postgres_pool) as made:
        await made.put(VALUES)
        kept = unblocked(asked_for(made, OperationKind.ERASE))
        ports, rounds = made.ports(Fuse(0)), 0

        async def barrier() -> int:
            nonlocal rounds
            rounds += 1
            if rounds <= 2:
                await made.opened.keyring.new_epoch()
                await made.put([ERASED])
            return made.journal.head()[0]

        await Erasure(replace(ports, barrier=barrier)).run(kept.operation, Progress(cast("Any", kept), "o-1"))
        assert kept.operation.inaccessible_time_ns
        assert ERASED[1] not in await made.plain(VALUES)
        assert kept.operation.scope is not None
        assert len(kept.operation.scope.tokens) == 3


async def test_an_erasure_behind_a_new_epoch_waits_for_a_vault_that_lags(
    tmp_path: Path, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    async with world(tmp_path / "world", vault, postgres_pool) as made:
        await made.put(VALUES)
        kept = unblocked(asked_for(made, OperationKind.ERASE))
        await made.opened.keyring.new_epoch()
        await made.put([ERASED])
        lags = replace(made.ports(Fuse(0)), follower=Lagging(), vault=cast("Any", Empty(vault)))
        wait = await Erasure(lags).run(kept.operation, Progress(cast("Any", kept), "o-1"))
        assert wait is not None
        assert "waiting for the vault" in wait.stage
        assert Erasure(lags).can_stop(kept.operation)
        await carried_out(made, kept, Fuse(0))
        assert ERASED[1] not in await made.plain(VALUES)


async def test_an_erasure_that_cannot_tell_the_tokens_of_a_new_epoch_certifies_nothing(
    tmp_path: Path, vault: PostgresVault, postgres_pool: PostgresPool
) -> None:
    async with world(tmp_path / "world", vault, postgres_pool) as made:
        kept = unblocked(asked_for(made, OperationKind.ERASE))
        await made.opened.keyring.new_epoch()
        await made.put([ERASED])  # it never was under the epoch that the tokens are of
        steps = Erasure(made.ports(Fuse(0)))
        with pytest.raises(OperationStateError, match="begin it again"):
            await steps.run(kept.operation, Progress(cast("Any", kept), "o-1"))
        assert not kept.operation.inaccessible_time_ns
        again = unblocked(asked_for(made, OperationKind.ERASE))
        await carried_out(made, again, Fuse(0))
        assert ERASED[1] not in await made.plain(VALUES)


def unblocked(operation: Operation) -> Kept:
    """Begun without keeping out later copies."""
    return Kept(replace(operation, parameters={**operation.parameters, "block": False, "digests": []}))


class Lagging:
    """A follower that is behind."""

    async def wait_applied(self, position: int, timeout_s: float) -> bool:
        del position, timeout_s
        return False


class Empty:
    """A vault that no frame has come to yet."""

    def __init__(self, vault: PostgresVault) -> None:
        self._vault = vault

    async def get(self, names: object) -> dict[TokenName, SealedValue]:
        del names
        return {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vault, name)
