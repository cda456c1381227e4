"""An epoch of the index key dies when no record can hold a token of it, and not a moment sooner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.ports.audit import Act
from heimdall_server.services.privacy.logic.epochs import EpochRetirement
from tests.support.journal import ManualClock

DAY_S = 86_400
AGE_S = 3_600.0
JOURNAL = "0" * 32
KEK = LocalKeyEncryption(RootKey(b"k" * 32))


@dataclass
class World:
    """A keyring with a real file; store, journal, vault and audit log as far as they are asked."""

    keyring: Keyring
    clock: ManualClock
    datasets: tuple[Dataset, ...]
    journal_id: str = JOURNAL
    head_position: int = 1
    tail_position: int = 1
    applied: int = 1 << 60
    oldest_record: int = 1
    """Position of the oldest record of any dataset."""
    oldest_observed_ns: int = 1 << 62
    """When the oldest one came in."""
    operations: list[Operation] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    audit_fails: bool = False
    counted: int = 0

    def tail(self) -> Mapping[int, int]:
        return {0: self.tail_position}

    async def wait_applied(self, position: int, timeout_s: float) -> bool:
        del timeout_s
        return self.applied >= position

    async def forget_epoch(self, epoch: int) -> int:
        self.forgotten.append(epoch)
        return 3

    async def append(self, act: Act) -> None:
        if self.audit_fails:
            raise StoreError("audit log", "the disk is full")
        self.acts.append(act)

    async def holds_records(self, through: int, observed_before_ns: int) -> bool:
        self.counted += 1
        return self.oldest_record <= through or self.oldest_observed_ns < observed_before_ns

    async def rotate(self) -> None:
        """As `IndexRotation` does, at the journal's head."""
        await self.keyring.new_epoch()
        (newest,) = (key.key_id for key in self.keyring.list() if key.kind == "index" and key.state == "active")
        facts: dict[str, Any] = {"through": self.head_position, "index_key": newest, "journal_id": JOURNAL}
        number = len(self.operations)
        self.operations.append(Operation(f"o{number}", OperationKind.ROTATE_INDEX, "a", "r", 1, 1, facts=facts))

    async def look(self) -> list[int]:
        me = cast("Any", self)
        retirement = EpochRetirement(
            keys=self.keyring,
            vault=me,
            follower=me,
            journal=me,
            datasets=self.datasets,
            rotations=lambda: self.operations,
            journal_age_s=AGE_S,
            holds_records=self.holds_records,
            audit=me,
            clock=self.clock,
        )
        return list(await retirement.run())


async def world(folder: Path, *datasets: Dataset) -> World:
    clock = ManualClock()
    ring = await Keyring.load(folder / "keyring", KEK, classes=("email",), now_ns=clock.now_ns)
    return World(ring, clock, datasets or (Dataset("logs", retention_days=30),))


async def rotated(folder: Path, *datasets: Dataset) -> World:
    """A rotation at position 10, and thirty-one quiet days with one record since."""
    made = await world(folder, *datasets)
    made.head_position = 10
    await made.rotate()
    made.clock.advance(31 * DAY_S)
    made.tail_position = made.oldest_record = 11
    return made


async def test_an_epoch_dies_when_its_last_record_has_gone_and_is_no_longer_searched(tmp_path: Path) -> None:
    made = await rotated(tmp_path)
    assert len(made.keyring.words_of_all_epochs("email", "a@example.com")) == 2
    assert await made.look() == [0]
    assert made.keyring.live_epochs == (1,)
    assert made.forgotten == [0]
    (act,) = made.acts
    assert (act.actor, act.action, act.subject) == ("system", "privacy.keys.retire", "index:0")
    assert act.details["vault_value_count"] == "3"
    assert await made.look() == []
    again = await Keyring.load(tmp_path / "keyring", KEK, classes=("email",))
    assert again.live_epochs == (1,)


async def test_it_lives_as_long_as_a_record_is_left_whatever_retention_says(tmp_path: Path) -> None:
    made = await rotated(tmp_path)
    made.oldest_record = 10
    assert await made.look() == []
    assert made.keyring.live_epochs == (0, 1)
    assert not made.acts


async def test_it_lives_while_a_dead_letter_of_its_time_may_have_been_decoded_behind_it(tmp_path: Path) -> None:
    made = await rotated(tmp_path, Dataset("samples"))
    begun_ns = made.clock.now_ns() - 31 * DAY_S * 10**9
    made.oldest_observed_ns = begun_ns + int(2 * AGE_S * 1e9) - 1
    assert await made.look() == []
    made.oldest_observed_ns += 1
    assert await made.look() == [0]


async def test_before_retention_has_passed_the_store_is_not_even_asked(tmp_path: Path) -> None:
    made = await rotated(tmp_path, Dataset("logs", retention_days=30), Dataset("dumps", retention_days=400))
    assert await made.look() == []
    assert not made.counted
    made.clock.advance(370 * DAY_S)
    assert await made.look() == [0]


async def test_a_dataset_that_keeps_for_ever_keeps_it_alive_unless_it_is_empty(tmp_path: Path) -> None:
    made = await rotated(tmp_path, Dataset("samples"))
    made.oldest_record = 4
    made.clock.advance(10_000 * DAY_S)
    assert await made.look() == []
    made.oldest_record = 4000
    assert await made.look() == [0]


@pytest.mark.parametrize("reason", ["journal", "vault", "other journal", "nobody noted it", "noted too early"])
async def test_it_lives_while_something_may_still_bring_its_tokens(reason: str, tmp_path: Path) -> None:
    made = await rotated(tmp_path)
    if reason == "journal":
        made.tail_position = 10
    elif reason == "vault":
        made.applied = 9
    elif reason == "other journal":
        made.journal_id = "1" * 32
    elif reason == "nobody noted it":
        made.operations.clear()
    else:
        made.operations[0] = made.operations[0].changed(
            now_ns=1, facts={**made.operations[0].facts, "index_key": "index:0"}
        )
    assert await made.look() == []
    assert made.keyring.live_epochs == (0, 1)


async def test_a_later_rotations_note_serves_an_epoch_whose_own_was_lost(tmp_path: Path) -> None:
    made = await world(tmp_path)
    await made.rotate()
    made.operations.clear()
    made.head_position = 20
    await made.rotate()
    made.clock.advance(31 * DAY_S)
    made.tail_position, made.oldest_record = 21, 15
    assert await made.look() == []
    made.oldest_record = 21
    assert await made.look() == [0, 1]
    assert made.keyring.live_epochs == (2,)


async def test_only_the_oldest_go_and_the_newest_never(tmp_path: Path) -> None:
    made = await world(tmp_path)
    for position in (10, 20):
        made.head_position = position
        await made.rotate()
    made.clock.advance(40 * DAY_S)
    made.tail_position = made.oldest_record = 15
    assert await made.look() == [0]
    made.tail_position = made.oldest_record = 1000
    assert await made.look() == [1]
    assert await made.look() == []
    assert made.keyring.live_epochs == (2,)


async def test_what_cannot_be_audited_is_not_done_and_tried_again(tmp_path: Path) -> None:
    made = await rotated(tmp_path)
    made.audit_fails = True
    with pytest.raises(StoreError):
        await made.look()
    assert made.keyring.live_epochs == (0, 1)
    made.audit_fails = False
    assert await made.look() == [0]
