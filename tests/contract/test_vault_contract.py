"""What every vault promises, whatever the engine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import runs_of
from heimdall_server.ports.vault import Tombstone, Vault
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.vaults import make_name, make_value, make_values, make_word

JOURNAL = "0" * 32
pytestmark = pytest.mark.usefixtures("postgres_clean")


@pytest.fixture(params=["postgres"])
def vault(postgres_pool: PostgresPool) -> Vault:
    return PostgresVault(postgres_pool)


async def apply(vault: Vault, values: Sequence[SealedValue], *, position: int, through: int | None = None) -> int:
    runs = runs_of(values)
    return await vault.apply(runs, [position] * len(runs), journal_id=JOURNAL, through=through or position)


def bury(text: str, *, through: int, blocked: bool = False, erasure_id: str = "e1") -> Tombstone:
    return Tombstone(make_name(text), through, blocked, erasure_id, 1_000)


async def values_of(vault: Vault, *texts: str) -> dict[str, SealedValue]:
    found = await vault.get([make_name(text) for text in texts])
    return {text: found[make_name(text)] for text in texts if make_name(text) in found}


async def test_values_come_back_as_they_were_applied(vault: Vault) -> None:
    values = [*make_values("a", 50), *make_values("b", 50, data_class="iban", generation=3)]
    assert await apply(vault, values, position=7) == 100
    assert await vault.get([value.name for value in values]) == {value.name: value for value in values}


async def test_a_token_that_nobody_knows_is_simply_not_there(vault: Vault) -> None:
    assert await apply(vault, [make_value("known")], position=1) == 1
    found = await vault.get([make_name("unknown"), make_name("known", data_class="iban"), make_name("known")])
    assert set(found) == {make_name("known")}
    assert await vault.get([]) == {}
    assert await vault.tombstones([]) == {}


async def test_progress_belongs_to_a_journal_and_is_noted_with_the_values(vault: Vault) -> None:
    assert await vault.applied(JOURNAL) == 0
    await apply(vault, make_values("a", 2), position=4, through=9)
    assert await vault.applied(JOURNAL) == 9
    assert await vault.applied("1" * 32) == 0
    await apply(vault, [], position=12)
    assert await vault.applied(JOURNAL) == 12


async def test_progress_goes_back_with_a_journal_that_does(vault: Vault) -> None:
    await apply(vault, [], position=12)
    await apply(vault, [], position=3)
    assert await vault.applied(JOURNAL) == 3


async def test_the_same_frames_twice_change_nothing(vault: Vault) -> None:
    values = make_values("a", 30)
    assert await apply(vault, values, position=5) == 30
    state = await vault.state()
    assert await apply(vault, values, position=5) == 0
    assert await vault.state() == state


async def test_of_repeats_the_first_wins_within_a_batch_and_after_it(vault: Vault) -> None:
    first, second, third = (SealedValue(make_name("a"), 1, bytes([n]) * 40) for n in (1, 2, 3))
    runs = [*runs_of([first]), *runs_of([second])]
    assert await vault.apply(runs, [1, 2], journal_id=JOURNAL, through=2) == 1
    assert await apply(vault, [third], position=3) == 0
    assert (await values_of(vault, "a"))["a"].sealed == first.sealed


async def test_of_repeats_in_a_batch_the_first_behind_a_tombstone_is_kept(vault: Vault) -> None:
    await vault.bury([bury("a", through=2)])
    erased, kept, later = (SealedValue(make_name("a"), 1, bytes([n]) * 40) for n in (1, 2, 3))
    runs = [run for one in (erased, kept, later) for run in runs_of([one])]
    assert await vault.apply(runs, [2, 3, 4], journal_id=JOURNAL, through=4) == 1
    assert (await values_of(vault, "a"))["a"].sealed == kept.sealed


async def test_empty_and_large_sealed_bytes_are_kept(vault: Vault) -> None:
    values = [SealedValue(make_name("none"), 1, b""), SealedValue(make_name("much"), 1, bytes(range(256)) * 4_000)]
    await apply(vault, values, position=1)
    assert await vault.get([value.name for value in values]) == {value.name: value for value in values}


async def test_a_batch_that_fails_leaves_nothing_of_itself(vault: Vault) -> None:
    values = [*make_values("a", 3), SealedValue(make_name("bad"), 0, b"")]
    with pytest.raises(Exception, match="postgres failed"):
        await apply(vault, values, position=5)
    assert await vault.get([value.name for value in values]) == {}
    assert await vault.applied(JOURNAL) == 0


async def test_what_is_buried_is_gone_and_its_tombstone_tells_why(vault: Vault) -> None:
    await apply(vault, make_values("a", 3), position=5)
    tombstones = [bury("a0", through=8), bury("never seen", through=8, blocked=True)]
    assert await vault.bury(tombstones) == 1
    assert set(await values_of(vault, "a0", "a1", "a2")) == {"a1", "a2"}
    found = await vault.tombstones([make_name("a0"), make_name("a1"), make_name("never seen")])
    assert found == {one.name: one for one in tombstones}


async def test_burying_again_changes_nothing_or_widens(vault: Vault) -> None:
    await apply(vault, [make_value("a")], position=5)
    assert await vault.bury([bury("a", through=8)]) == 1
    assert await vault.bury([bury("a", through=8)]) == 0
    assert await vault.bury([bury("a", through=6, erasure_id="older")]) == 0
    assert (await vault.tombstones([make_name("a")]))[make_name("a")] == bury("a", through=8)
    await vault.bury([bury("a", through=9, erasure_id="e2"), bury("a", through=7, blocked=True, erasure_id="e3")])
    assert (await vault.tombstones([make_name("a")]))[make_name("a")] == bury(
        "a", through=9, blocked=True, erasure_id="e2"
    )


async def test_a_tombstone_wins_over_frames_up_to_its_position_whatever_comes_first(vault: Vault) -> None:
    await vault.bury([bury("a", through=8)])
    assert await apply(vault, [make_value("a")], position=8) == 0
    assert await apply(vault, [make_value("a")], position=3) == 0
    assert await values_of(vault, "a") == {}
    assert await apply(vault, [make_value("a")], position=9) == 1
    assert set(await values_of(vault, "a")) == {"a"}


async def test_a_value_first_seen_behind_the_tombstone_stays(vault: Vault) -> None:
    await apply(vault, [make_value("a")], position=9)
    assert await vault.bury([bury("a", through=8)]) == 0
    assert set(await values_of(vault, "a")) == {"a"}


async def test_a_blocked_token_never_comes_back(vault: Vault) -> None:
    await apply(vault, [make_value("a")], position=9)
    assert await vault.bury([bury("a", through=8, blocked=True)]) == 1
    assert await apply(vault, [make_value("a"), make_value("b")], position=100) == 1
    assert set(await values_of(vault, "a", "b")) == {"b"}


async def test_frames_and_erasures_at_the_same_time_bring_nothing_back(vault: Vault) -> None:
    texts = [f"a{i}" for i in range(200)]
    for round_number in range(5):
        values = [make_value(text) for text in texts]
        await asyncio.gather(
            *(apply(vault, values, position=5) for _ in range(3)),
            vault.bury([bury(text, through=5, erasure_id=f"e{round_number}") for text in texts]),
        )
        assert await values_of(vault, *texts) == {}
    assert (await vault.state()).value_count == 0


async def test_older_generations_come_in_batches_and_are_replaced_where_they_still_are(vault: Vault) -> None:
    await apply(vault, make_values("old", 25), position=1)
    await apply(vault, make_values("new", 5, generation=2), position=2)
    await apply(vault, make_values("other", 5, data_class="iban"), position=3)
    assert await vault.count_older_than("email", 2) == 25
    sizes, replaced = [], 0
    async for batch in vault.older_than("email", 2, batch=10):
        sizes.append(len(batch))
        assert {value.generation for value in batch} == {1}
        if len(sizes) == 1:
            await vault.bury([Tombstone(batch[0].name, 9, False, "e", 1)])
        replaced += await vault.replace([SealedValue(value.name, 2, b"anew" + value.sealed) for value in batch])
    assert sizes == [10, 10, 5]
    assert replaced == 24
    assert await vault.count_older_than("email", 2) == 0
    assert await vault.count_older_than("email", 3) == 29
    assert await vault.count_older_than("iban", 2) == 5
    found = await values_of(vault, *(f"old{i}" for i in range(25)))
    assert len(found) == 24
    assert all(value.generation == 2 and value.sealed.startswith(b"anew") for value in found.values())


async def test_nothing_is_replaced_by_something_older(vault: Vault) -> None:
    await apply(vault, [make_value("a", generation=3)], position=1)
    assert await vault.replace([make_value("a", generation=2), make_value("gone", generation=4)]) == 0
    assert await vault.replace([]) == 0
    assert (await values_of(vault, "a"))["a"] == make_value("a", generation=3)


async def test_nothing_reaches_behind_the_end_of_a_journal_that_was_restored(vault: Vault) -> None:
    await apply(vault, make_values("a", 2), position=3)
    await apply(vault, make_values("b", 30), position=80)
    await vault.bury([bury("a0", through=2), bury("gone", through=70), bury("blocked", through=75, blocked=True)])
    await vault.rewind(JOURNAL, 80)
    names = [make_name(text) for text in ("a0", "gone", "blocked")]
    assert [one.through for one in (await vault.tombstones(names)).values()].count(70) == 1
    for _ in range(2):
        await vault.rewind(JOURNAL, 10)
    found = await vault.tombstones(names)
    assert [(found[name].through, found[name].blocked) for name in names] == [(2, False), (10, False), (10, True)]
    assert await apply(vault, [make_value("gone"), make_value("blocked")], position=11) == 1
    # An erasure of now reaches what the newer journal had brought.
    assert await vault.bury([bury("b7", through=10), bury("gone", through=10)]) == 1
    assert set(await values_of(vault, "b6", "b7", "gone")) == {"b6", "gone"}
    assert await vault.bury([bury("a0", through=70)]) == 1


async def test_what_is_discarded_goes_where_it_is_still_of_that_generation(vault: Vault) -> None:
    dead, renewed = make_values("a", 3), make_value("a1", generation=2)
    await apply(vault, [*dead, make_value("b")], position=1)
    assert await vault.replace([renewed]) == 1
    assert [await vault.discard(values) for values in (dead, dead, [])] == [2, 0, 0]
    assert await values_of(vault, "a0", "a1", "a2", "b") == {"a1": renewed, "b": make_value("b")}
    assert (await vault.state()).value_count == 2
    assert [await vault.count_older_than("email", generation) for generation in (2, 3)] == [1, 2]
    assert await apply(vault, [make_value("a0", generation=2)], position=2) == 1


async def test_the_values_of_an_epoch_go_and_those_of_others_stay(vault: Vault) -> None:
    old, new = (
        [
            SealedValue(TokenName(data_class, make_word(f"{data_class}{number}", epoch=epoch)), 1, b"sealed")
            for data_class in ("email", "iban")
            for number in range(10)
        ]
        for epoch in (9, 10)
    )
    await apply(vault, [*old, *new], position=1)
    assert await vault.forget_epoch(9) == 20
    assert await vault.forget_epoch(9) == 0
    assert set(await vault.get([value.name for value in (*old, *new)])) == {value.name for value in new}
    assert await vault.count_older_than("email", 2) == 10
    assert (await vault.state()).value_count == 20
    assert await vault.forget_epoch(35) == 0


async def test_gaps_are_remembered_for_each_journal(vault: Vault) -> None:
    await vault.note_gap(JOURNAL, first=10, last=20)
    await vault.note_gap(JOURNAL, first=2, last=3)
    await vault.note_gap(JOURNAL, first=10, last=20)
    assert list(await vault.gaps(JOURNAL)) == [(2, 3), (10, 20)]
    assert list(await vault.gaps("1" * 32)) == []


async def test_the_state_counts_what_is_there(vault: Vault) -> None:
    empty = await vault.state()
    assert (empty.value_count, empty.tombstone_count, empty.applied_position) == (0, 0, 0)
    await apply(vault, make_values("a", 20), position=6)
    await vault.bury([bury("a3", through=6), bury("b", through=6)])
    state = await vault.state()
    assert (state.value_count, state.tombstone_count, state.applied_position) == (19, 2, 6)
    assert state.size_bytes > empty.size_bytes >= 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
async def test_it_agrees_with_a_dictionary(vault: Vault, seed: int) -> None:
    chance = random.Random(seed)
    texts = [f"{seed}/{i}" for i in range(8)]
    values: dict[TokenName, tuple[SealedValue, int]] = {}
    buried: dict[TokenName, Tombstone] = {}
    before = (await vault.state()).value_count
    for _ in range(12):
        chosen = chance.sample(texts, chance.randint(1, 5))
        position = chance.randint(1, 20)
        if chance.random() < 0.6:
            batch = [make_value(text, generation=chance.randint(1, 3)) for text in chosen]
            for value in batch:
                stone = buried.get(value.name)
                if stone is None or not (stone.blocked or position <= stone.through):
                    values.setdefault(value.name, (value, position))
            await apply(vault, batch, position=position)
        else:
            blocked = chance.random() < 0.2
            for text in chosen:
                name = make_name(text)
                old = buried.get(name)
                widest = max(position, old.through if old else 0)
                buried[name] = Tombstone(name, widest, blocked or bool(old and old.blocked), "e", 1)
                if name in values and (blocked or values[name][1] <= position):
                    del values[name]
            await vault.bury([bury(text, through=position, blocked=blocked) for text in chosen])
    assert await vault.get([make_name(text) for text in texts]) == {name: value for name, (value, _) in values.items()}
    stones = await vault.tombstones([make_name(text) for text in texts])
    assert {name: (one.through, one.blocked) for name, one in stones.items()} == {
        name: (one.through, one.blocked) for name, one in buried.items()
    }
    assert (await vault.state()).value_count - before == len(values)
