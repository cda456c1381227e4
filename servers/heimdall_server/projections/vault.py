"""Follows the journal into the vault: newly sealed values ride in frames, and go where they can be read by token.

Only the control of frames is read, never their records. The vault notes how far it has come in the transaction that keeps the
values, so nothing else needs to be durable here: after a crash, a failure or an older backup it is asked, and the journal is read from
there. The projection is optional: nothing waits for it, and when the journal must go on without it, what was lost is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.domain.errors import NotFoundError
from heimdall_server.domain.sealed_values import SIDECAR, SealedRun, decode_runs
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Frame, Journal
from heimdall_server.ports.vault import Tombstone, Vault
from heimdall_server.projections.optional import OptionalProjection
from heimdall_server.projections.warm import ProjectionState, RetryPolicy

SHARD: Final = 0
"""Tombstones hold for positions of one shard, so the vault follows one."""
_DISCARD_VALUES: Final = 2_000
"""Taken out together."""
_APART: Final = 4
"""Times `linger_s` lie between two transactions at least, unless a batch is full."""


@dataclass(frozen=True, slots=True)
class VaultLimits:
    """How much is taken at once."""

    batch_values: int = 20_000
    """A full batch; a frame with more is applied in parts."""
    batch_bytes: int = 8 * 1024 * 1024
    """Of sealed values; a batch with more is full, too."""
    linger_s: float = 0.25
    """A batch that isn't full is applied this long after its first value was read, and not before `_APART` times as long after the
    one before: while values keep coming, larger transactions cost half."""
    idle_s: float = 5.0
    """Frames without values are only noted this often: each note is a transaction."""


@dataclass(frozen=True, slots=True)
class VaultProgress:
    """How far the projection has come."""

    state: ProjectionState
    applied: int
    """Every value of frames up to this position can be read."""
    noted: int
    """What the vault itself has noted: a later start goes on from here, so the journal is needed from here on."""
    lag_positions: int
    """Durable frames that aren't applied."""
    lag_s: float
    """Age of the oldest of them; 0: none."""
    value_count: int
    """New values since the start."""
    retry_count: int
    """Failures of the vault since the start."""
    problem: str = ""
    """The last failure, while RETRYING or FAILED."""
    notice: str = ""
    """What is missing, if anything is."""
    needs_rebuild: bool = False
    """Whether values are missing that the journal no longer has: only a backup can bring them back."""


@dataclass(frozen=True, slots=True)
class VaultHooks:
    """Who hears what, and who knows more."""

    tombstones: Callable[[], Awaitable[Sequence[Tombstone]]] | None = None
    """Asked at each start and whenever the vault turns out to be older than it was: erasures as they are known outside it. They
    are applied before anything else."""
    destroyed: Callable[[], Mapping[str, Collection[int]]] = dict
    """Asked with them: generations of data keys that are gone, by class. Nobody can open what they sealed, and it would only hold the place
    of fresh copies: it is taken out, and not taken in."""
    on_discarded: Callable[[int], None] = lambda _: None
    """How many such values the vault held: its database came back from a backup that is older than a rotation or an erasure."""
    on_applied: Callable[[int, float], None] = lambda *_: None
    """After a batch: new values, seconds it took."""
    on_back: Callable[[], None] = lambda: None
    """The vault held values of these erasures: its database came back from a backup, and so did what else stands in it."""
    step: Callable[[str], None] = lambda _: None
    """Told each step before it is taken; a test kills the process there."""


class _OtherVaultError(Exception):
    """The vault isn't where we left it: a backup was restored, or an empty one was put in its place."""


@dataclass(slots=True)
class _Batch:
    """Values that were read and not applied, and how far reading has come with them."""

    runs: list[SealedRun] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Of each run's frame."""
    value_count: int = 0
    size_bytes: int = 0
    first_time_ns: int = 0
    begin_s: float = 0.0


class VaultProjection(OptionalProjection):
    """The projection into the vault. One `run` at a time."""

    def __init__(
        self,
        journal: Journal,
        vault: Vault,
        clock: Clock,
        *,
        limits: VaultLimits | None = None,
        retry: RetryPolicy | None = None,
        hooks: VaultHooks | None = None,
    ) -> None:
        super().__init__(retry)
        self._journal = journal
        self._vault = vault
        self._clock = clock
        self._limits = limits or VaultLimits()
        self._hooks = hooks or VaultHooks()
        self._destroyed: Mapping[str, Collection[int]] = {}
        self._gaps: list[tuple[int, int]] = []
        self._noted = 0
        self._noted_s = 0.0
        self._read = 0
        self._read_time_ns = 0
        self._values = 0
        self._batch = _Batch()

    @property
    def progress(self) -> VaultProgress:
        """State and lag, now. Cheap."""
        lag = max(0, self._journal.head()[SHARD] - self._applied)
        oldest_ns = self._batch.first_time_ns or self._read_time_ns
        return VaultProgress(
            state=self._state,
            applied=self._applied,
            noted=self._noted,
            lag_positions=lag,
            lag_s=max(0, self._clock.now_ns() - oldest_ns) / 1e9 if lag and oldest_ns else 0.0,
            value_count=self._values,
            retry_count=self._retries,
            problem=self._problem,
            notice=self._notice(),
            needs_rebuild=bool(self._gaps),
        )

    async def run(self) -> None:
        """Ask the vault how far it is, then follow the journal until cancelled.

        Raises:
            CorruptionError: The journal is damaged at the next position, or a newer program wrote its values.
        """
        self._state = ProjectionState.STARTING
        # The first time it counts where the journal ended before anything came in, however long the vault is away.
        head = self._journal.head()[SHARD]
        try:
            await self._patiently(functools.partial(self._begin, head))
            while True:
                try:
                    await self._read_on()
                    await self._settle()
                except NotFoundError:
                    await self._patiently(self._skip_what_is_gone)
                except _OtherVaultError:
                    await self._patiently(functools.partial(self._begin, self._journal.head()[SHARD]))
        except asyncio.CancelledError:
            self._state = ProjectionState.STOPPED
            raise
        except Exception as error:
            self._state, self._problem = ProjectionState.FAILED, str(error)
            raise
        finally:
            self._batch = _Batch()

    async def _begin(self, head: int) -> None:
        journal_id = self._journal.journal_id
        self._hooks.step("begin")
        # Before the tombstones that are known elsewhere, by which a later one than the journal's end comes back.
        await self._vault.rewind(journal_id, head)
        if self._hooks.tombstones is not None and await self._vault.bury(await self._hooks.tombstones()):
            self._hooks.on_back()
        self._destroyed = self._hooks.destroyed()
        if count := await self._discard_dead():
            self._hooks.on_discarded(count)
        applied = await self._vault.applied(journal_id)
        if applied > head:
            # The journal is a restored one: its next positions will be of other frames than those that were applied.
            applied = self._journal.tail()[SHARD] - 1
            await self._vault.apply([], [], journal_id=journal_id, through=applied)
        self._gaps = list(await self._vault.gaps(journal_id))
        self._batch = _Batch()
        self._read = self._applied = self._noted = applied
        self._noted_s = self._clock.monotonic_s()
        await self._skip_what_is_gone()
        await self._tell()

    async def _discard_dead(self) -> int:
        """Take out what no key opens any more. Costs a question a class where there is nothing of the kind."""
        count = 0
        for data_class, numbers in self._destroyed.items():
            if not numbers or not await self._vault.count_older_than(data_class, max(numbers) + 1):
                continue
            async for batch in self._vault.older_than(data_class, max(numbers) + 1, batch=_DISCARD_VALUES):
                count += await self._vault.discard([value for value in batch if value.generation in numbers])
        return count

    async def _skip_what_is_gone(self) -> None:
        """Go on where the journal begins, and remember what was before that."""
        first, tail = self._read + 1, self._journal.tail()[SHARD]
        if first >= tail:
            return
        await self._vault.note_gap(self._journal.journal_id, first=first, last=tail - 1)
        self._gaps.append((first, tail - 1))
        self._read = tail - 1

    async def _read_on(self) -> None:
        """Read what the journal has, applying full batches on the way."""
        head = self._journal.head()[SHARD]
        if head <= self._read:
            return
        async with contextlib.aclosing(
            self._journal.read_control(SHARD, after=self._read, through=head)  # type: ignore[type-var]
        ) as frames:
            async for frame in frames:
                await self._take(frame)

    async def _take(self, frame: Frame) -> None:
        limits = self._limits
        data = frame.entry.sidecars.get(SIDECAR)
        for run in await asyncio.to_thread(decode_runs, data) if data else ():
            # A frame is only ever passed as a whole, but may be applied in parts.
            begin = 0
            while begin < len(run):
                end = min(len(run), begin + limits.batch_values - self._batch.value_count)
                self._add(frame, run.part(begin, end))
                begin = end
                if begin < len(run):
                    await self._apply()
        self._read, self._read_time_ns = frame.position, frame.time_ns
        if self._batch.size_bytes >= limits.batch_bytes or self._batch.value_count >= limits.batch_values:
            await self._apply()

    def _add(self, frame: Frame, run: SealedRun) -> None:
        if not len(run) or run.generation in self._destroyed.get(run.data_class, ()):
            return
        batch = self._batch
        if not batch.runs:
            batch.first_time_ns, batch.begin_s = frame.time_ns, self._clock.monotonic_s()
        batch.runs.append(run)
        batch.positions.append(frame.position)
        batch.value_count += len(run)
        batch.size_bytes += len(run.sealed)

    async def _settle(self) -> None:
        """At the head: apply what has waited long enough, note what was passed, and wait for more."""
        now_s, limits = self._clock.monotonic_s(), self._limits
        if self._batch.runs:
            wait_s = max(self._batch.begin_s + limits.linger_s, self._noted_s + _APART * limits.linger_s) - now_s
        else:
            if self._applied < self._read:
                self._applied = self._read
                await self._tell()
            wait_s = limits.idle_s if self._noted == self._read else self._noted_s + limits.idle_s - now_s
        if wait_s <= 0:
            await self._apply()
        elif not await self._journal.wait(SHARD, after=self._read, timeout_s=wait_s):
            # A closed journal doesn't wait; and a clock that stands still, as in a test, doesn't make us spin.
            await asyncio.sleep(min(wait_s, 0.01))

    async def _apply(self) -> None:
        """Apply the batch, however often the vault fails, and note how far that is."""
        batch, began_s = self._batch, self._clock.monotonic_s()
        added = await self._patiently(self._apply_once)
        self._batch = _Batch()
        self._values += added
        self._noted = self._applied = self._read
        self._noted_s = self._clock.monotonic_s()
        await self._tell()
        self._hooks.step("applied")
        if batch.runs:
            self._hooks.on_applied(added, self._noted_s - began_s)

    async def _apply_once(self) -> int:
        self._hooks.step("apply")
        batch = self._batch
        found = await self._vault.applied(self._journal.journal_id)
        if found not in (self._noted, self._read):  # the latter if it was kept and we weren't told
            raise _OtherVaultError
        return await self._vault.apply(
            batch.runs, batch.positions, journal_id=self._journal.journal_id, through=self._read
        )

    def _notice(self) -> str:
        if not self._gaps:
            return ""
        ranges = ", ".join(f"{first} to {last}" for first, last in self._gaps)
        return (
            f"the vault misses personal values of journal positions {ranges}: the journal let go of them while PostgreSQL was away; "
            "their tokens can be searched, and not revealed until a backup of PostgreSQL that has them is restored"
        )
