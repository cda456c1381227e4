"""One journal's lives on a simulated disk, by a seed, beside a model of what it promised.

A life opens the journal, appends groups of calls, trims, reads; then it is closed, killed, or the power fails,
at any change. Each opening must find exactly what was promised: every acknowledged entry in its place, an
unanswered one whole or not at all, a refused one never, and the control state that follows from those.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from heimdall_server.domain.errors import (
    ConfigurationError,
    CorruptionError,
    HeimdallError,
    JournalFullError,
    KeyMismatchError,
    StoreError,
)
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.journal import Entry, Frame, SourceKey, SourceMark
from heimdall_server.storage.journal.journal import EmbeddedJournal
from tests.support.journal import KEY, LastOffsets, ManualClock, make_batch, read_all, small_config
from tests.support.simulated_disk import Faults, PowerCutError, SimDisk

DIRECTORY = Path("/data/journal")
BATCHES = {rows: make_batch([""] * rows).columns for rows in (1, 2)}
MakeDisk = Callable[[str], SimDisk]


class BrokenPromiseError(AssertionError):
    """The journal doesn't hold what it promised."""


@dataclass
class Promises:
    """What callers were told."""

    kept: dict[int, str] = field(default_factory=dict)
    """Position → name of what was acknowledged, or found by a later opening."""
    entries: dict[str, Entry] = field(default_factory=dict)
    unsure: list[str] = field(default_factory=list)
    """Whose call failed, in order."""
    last_group: set[str] = field(default_factory=set)
    """Acknowledged last: damage to it can't be told from a torn write."""
    trimmed: int = 0

    def expect(self, holds: object, sentence: str) -> None:
        if not holds:
            raise BrokenPromiseError(sentence)

    def check(self, frames: list[Frame], tail: int, head: int, *, damaged: bool, opening: bool) -> None:
        """Compare the frames that a journal holds with the promises.

        Args:
            frames: All of them.
            tail: First position held.
            head: Last position.
            damaged: A bit was flipped: the last group may be missing.
            opening: Nothing is unanswered any more: what of it is there stays, the rest never comes.
        """
        self.expect([frame.position for frame in frames] == list(range(tail, head + 1)), "positions aren't dense")
        self.expect(tail <= self.trimmed + 1, f"frames from {self.trimmed + 1} are gone, the tail is {tail}")
        found = {frame.position: frame.entry.sources[0].key.source for frame in frames if frame.entry.sources}
        for position, name in list(self.kept.items()):
            if position >= tail and found.get(position) != name:
                lost = damaged and name in self.last_group
                self.expect(lost, f"acknowledged {name} isn't at {position} but {found.get(position)}")
                del self.kept[position]
        for frame in frames:
            if frame.position in self.kept or frame.entry.snapshot is not None:
                continue
            name = found.get(frame.position, "?")
            self.expect(opening and name in self.unsure, f"{name} at {frame.position} was never acknowledged")
            self.expect(frame.position > max(self.kept, default=0), f"{name} came before what was acknowledged")
            del self.unsure[: self.unsure.index(name) + 1]
            self.kept[frame.position] = name
        for frame in frames:
            if frame.entry.snapshot is None:
                entry = self.entries[self.kept[frame.position]]
                whole = frame.entry.batch == entry.batch and frame.entry.sources == entry.sources
                self.expect(whole, f"frame {frame.position} isn't what was appended")
        if opening:
            self.unsure.clear()

    def check_state(self, state: LastOffsets) -> None:
        """Compare the control state."""
        expected = {name: self.entries[name].sources[0].next_offset for name in self.kept.values()}
        self.expect(state.offsets == expected, f"the control state is {state.offsets}, not {expected}")


class Schedule:
    """A seed's schedule."""

    def __init__(self, seed: int, make_disk: MakeDisk = SimDisk) -> None:
        self._chance = random.Random(seed)
        self._disk = make_disk(str(seed))
        self._disk.make_directory(Path("/data"))
        self._disk.sync_directory(Path("/"))
        self._clock = ManualClock()
        self._promises = Promises()
        self._number = 0
        self._damaged = False
        self._trims = self._chance.choice((0.15, 0.4))
        config = {
            "retain_bytes": self._chance.choice((0, 0, 2 << 16)),
            "bytes_max": self._chance.choice((6 << 16, 16 << 20)),
        }
        config["spare_segments"] = self._chance.randrange(3)
        config["group_bytes_max"] = self._chance.choice((8 << 10, 32 << 20))
        self._config = small_config(DIRECTORY, **config)

    async def run(self) -> None:
        """Live some lives.

        Raises:
            BrokenPromiseError: A promise was broken.
        """
        try:
            for _ in range(self._chance.randint(1, 4)):
                await self._live()
            self._disk.faults = Faults()
            await self._last()
        except (CorruptionError, ConfigurationError, KeyMismatchError) as error:
            if not self._damaged:
                raise BrokenPromiseError(f"an intact journal is refused: {error}") from error

    async def _live(self) -> None:
        chance = self._chance
        self._disk.faults = Faults()
        faults, cut = _some_faults(chance), chance.randrange(60) if chance.random() < 0.5 else -1
        late = chance.random() < 0.6
        if not late:
            self._disk.faults = faults
            self._disk.cut_after(cut)
        journal = await self._open()
        if journal is None:
            return
        if late:
            self._disk.faults = faults
            self._disk.cut_after(cut)
        try:
            await self._work(journal)
            if chance.random() < 0.3:
                with contextlib.suppress(StoreError, PowerCutError):
                    await journal.close()
            else:
                await _settled(journal)
        finally:
            self._disk.kill()
            with contextlib.suppress(StoreError, PowerCutError):
                await journal.close()
        self._restart()

    def _restart(self) -> None:
        self._disk.restart(lost_power=self._chance.random() < 0.5)
        self._damaged = self._damaged or (self._chance.random() < 0.12 and self._flip())

    async def _open(self) -> EmbeddedJournal | None:
        """Open it and check what it holds; None if the process died meanwhile."""
        for _ in range(20):
            journal = None
            try:
                journal = await EmbeddedJournal.open(self._config, key=KEY, clock=self._clock, disk=self._disk)
                state = LastOffsets()
                await journal.maintain(state)
                await self._check(journal, opening=True)
                self._promises.check_state(state)
            except StoreError:
                # A fault of this disk; the operator starts it again.
                if journal is not None:
                    with contextlib.suppress(StoreError, PowerCutError):
                        await journal.close()
                if self._chance.random() < 0.3:
                    self._disk.faults = Faults()
            except PowerCutError:
                if journal is not None:
                    with contextlib.suppress(StoreError, PowerCutError):
                        await journal.close()
                self._restart()
                return None
            except BaseException:
                self._disk.kill()
                if journal is not None:
                    with contextlib.suppress(StoreError, PowerCutError):
                        await journal.close()
                raise
            else:
                return journal
        raise BrokenPromiseError("the journal never opens")

    async def _last(self) -> None:
        """Without faults everything works."""
        journal = await self._open()
        assert journal is not None
        try:
            await self._append(journal, must_work=True)
            await self._check(journal, opening=False)
        finally:
            await journal.close()

    async def _work(self, journal: EmbeddedJournal) -> None:
        chance = self._chance
        for _ in range(chance.randint(1, 12)):
            if self._disk.gone:
                return
            what = chance.random()
            if what < 0.8 - self._trims:
                await self._append(journal)
            elif what < 0.8:
                await self._trim(journal)
            elif what < 0.95:
                self._clock.advance(chance.choice((1.0, 7 * 3600.0, 7 * 3600.0)))
            else:
                with contextlib.suppress(StoreError, PowerCutError):
                    await self._check(journal, opening=False)

    async def _append(self, journal: EmbeddedJournal, *, must_work: bool = False) -> None:
        chance, promises = self._chance, self._promises
        calls = [[self._entry() for _ in range(chance.randint(1, 2))] for _ in range(chance.randint(1, 3))]
        outcomes = await asyncio.gather(
            *(journal.append([promises.entries[name] for name in call]) for call in calls), return_exceptions=True
        )
        told: set[str] = set()
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, JournalFullError):
                promises.expect(not must_work or outcome.bound == "journal_bytes_max", f"refused: {outcome}")
            elif isinstance(outcome, HeimdallError | PowerCutError):
                promises.expect(not must_work, f"failed on a disk without faults: {outcome}")
                promises.unsure += call
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                told.update(call)
                for position, name in zip(outcome, call, strict=True):
                    promises.expect(position > max(promises.kept, default=0), f"position {position} was given twice")
                    promises.kept[position] = name
        if told:
            promises.last_group = told

    def _entry(self) -> str:
        self._number += 1
        rows, size = self._chance.randint(1, 2), self._chance.choice((8, 100, 9000))
        name = f"e{self._number}"
        body = self._chance.randbytes(size // 2).hex()
        bodies = pa.array([f"{name} {row} {body}" for row in range(rows)])
        columns = [
            bodies if field.name == "body" else column
            for field, column in zip(RECORD_SCHEMA, BATCHES[rows], strict=True)
        ]
        mark = SourceMark(SourceKey("spiffe://test/client", name), 1, 0, rows, rows, 0)
        batch = pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)
        self._promises.entries[name] = Entry(batch, sources=(mark,))
        return name

    async def _trim(self, journal: EmbeddedJournal) -> None:
        head = journal.head()[0]
        through = self._chance.choice((head, self._chance.randint(0, head)))
        self._promises.trimmed = max(self._promises.trimmed, through)
        with contextlib.suppress(HeimdallError, PowerCutError):
            await journal.trim({0: through})

    async def _check(self, journal: EmbeddedJournal, *, opening: bool) -> None:
        tail = journal.tail()[0]
        frames = await read_all(journal, after=tail - 1)
        self._promises.check(frames, tail, journal.head()[0], damaged=self._damaged, opening=opening)

    def _flip(self) -> bool:
        """Change a bit of what lies on the disk."""
        files = self._disk.files(DIRECTORY)
        names = [name for name in sorted(files) if files[name].stored and name != "LOCK"]
        if not names:
            return False
        file = files[self._chance.choice(names)]
        at, mask = self._chance.randrange(len(file.stored)), 1 << self._chance.randrange(8)
        for content in (file.stored, file.cache):
            if at < len(content):
                content[at] ^= mask
        return True


async def _settled(journal: EmbeddedJournal) -> None:
    """Wait until nothing is being written or deleted."""
    if journal._failure is None:
        with contextlib.suppress(HeimdallError, PowerCutError):
            await journal._submit(())


def _some_faults(chance: random.Random) -> Faults:
    """None, one kind now and then, or all of them."""
    rate = chance.choice((0.02, 0.1, 0.3))
    kinds = {
        name: chance.choice((0.02, 0.1)) for name in ("write", "short_write", "sync", "directory", "read", "no_space")
    }
    what = chance.random()
    if what < 0.2:
        return Faults()
    fatal = chance.choice((0.0, 0.5, 1.0))
    if what < 0.75:
        return Faults(**{chance.choice((*sorted(kinds), "directory", "directory")): rate}, fatal=fatal)
    return Faults(**kinds, fatal=fatal)
