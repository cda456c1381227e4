"""Instances that share the identity key name people alike, and make the same facts of the same records; others can't tell."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.journal import Entry
from heimdall_server.projections.vault import VaultLimits, VaultProjection
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.graph_making import PATIENT, WAIT_S, MakingBench
from tests.support.graphs import DAY_NS
from tests.support.journal import KEY, opened, small_config
from tests.support.postgres import PostgresServer
from tests.support.random_records import TIME_NS, record
from tests.support.warm_process import SystemClock

PROVENANCE_ASIDE = "(p.source, p.method, p.dump, p.confidence, p.tlp)::text"
"""A provenance without the instance."""
PEOPLE = [f"{name}.lovelace@example.com" for name in ("ada", "bea", "cat", "dora")]
RULES = (PrivacyRule("tokenise", "email"), PrivacyRule("keep"))
TOKEN = re.compile(r"\[([a-z_]+):[0-9a-z]{27}\]")
Rows = Sequence[tuple[object, ...]]


def rows() -> list[dict[str, Any]]:
    """A log and a dump, in which people stand."""
    logs = [
        {
            "source": "app",
            "time": TIME_NS + number % 3 * DAY_NS,
            "body": f"192.0.2.{number % 4} signed in as {PEOPLE[number % 3]}",
            "attributes": {"user_email": PEOPLE[number % 4]},
        }
        for number in range(12)
    ]
    leaked = [
        {
            "source": "leak",
            "dump": "forum",
            "dataset": "dumps",
            "record_number": number + 1,
            "time": TIME_NS + number,
            "attributes": {"mail": PEOPLE[number % 4], "ip": f"192.0.2.{number % 3}"},
        }
        for number in range(12)
    ]
    return [*logs, *leaked]


class Instances:
    """Instances, each with a journal, a database and a keyring of its own."""

    def __init__(self, server: PostgresServer, folder: Path, stack: AsyncExitStack) -> None:
        self._server = server
        self._folder = folder
        self._stack = stack

    async def make(self, name: str, *, keys_of: str = "", new_epoch: bool = False) -> MakingBench:
        """One that has nothing yet.

        Args:
            name: Its.
            keys_of: Whose keyring it was given a copy of; empty: it has its own.
            new_epoch: It has rotated its index key since.
        """
        folder = self._folder / name
        folder.mkdir()
        ring = folder / "keyring"
        if keys_of:
            shutil.copy(self._folder / keys_of / "keyring", ring)
        keyring = await Keyring.load(ring, LocalKeyEncryption(KEY), classes=CLASSES)
        if new_epoch:
            await keyring.new_epoch()
        database = await asyncio.to_thread(self._server.new_database)
        self._stack.callback(self._server.drop_database, database)
        pool = self._server.pool(database)
        self._stack.push_async_callback(pool.close)
        await pool.open()
        journal = await self._stack.enter_async_context(opened(small_config(folder / "journal")))
        return MakingBench(journal, pool, keyring=keyring)


@pytest.fixture
async def instances(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[Instances]:
    async with AsyncExitStack() as stack:
        yield Instances(postgres_server, tmp_path, stack)


async def graph_of(bench: MakingBench, seed: int) -> Rows:
    """Take the records in as ingest does, cut and ordered by chance, and make the graph."""
    chance, left = random.Random(seed), rows()
    chance.shuffle(left)
    keyring = bench.keyring
    assert keyring is not None
    protector = PolicyProtector(PrivacyPolicy(1, RULES), keyed_actions(keyring, keyring))
    while left:
        size = chance.randrange(1, 9)
        some, left = left[:size], left[size:]
        made = [record(number, **row) for number, row in enumerate(some)]
        told = protector.protect(pa.RecordBatch.from_pylist(made, schema=RECORD_SCHEMA))
        await bench.journal.append([Entry(told.batch, sidecars=told.sidecars)])
    vault = VaultProjection(
        bench.journal, PostgresVault(bench.pool), SystemClock(), limits=VaultLimits(linger_s=0.01), retry=PATIENT
    )
    task = asyncio.create_task(vault.run())
    try:
        assert await vault.wait_applied(bench.journal.head()[0], WAIT_S)
    finally:
        task.cancel()
        await asyncio.wait([task])
    await bench.follow()
    found = await bench.graph(who=PROVENANCE_ASIDE, places=False)
    assert not any(person in repr(found) for person in PEOPLE)
    return found


def without_tokens(graph: Rows) -> list[str]:
    """What it says but for the words of tokens, which are one epoch's, and profiles, which are made of what is stored."""
    told = [row for row in graph if row[0] != "graph_profile"]
    marked = 5  # of vertices: the epoch of the token
    return sorted(
        TOKEN.sub(r"[\1]", repr((*row[:marked], *row[marked + 1 :]) if row[3] is not None else row)) for row in told
    )


def people(graph: Rows) -> dict[str, str]:
    """Entities of mail addresses: id → token."""
    found = {}
    for row in graph:
        token = TOKEN.search(str(row[3])) if row[0] == "Entity" else None
        if token is not None and token[1] == "email":
            found[str(row[1])] = token[0]
    return found


async def test_instances_that_share_the_keys_make_the_same_ids_and_facts(instances: Instances) -> None:
    ours = await graph_of(await instances.make("ours"), 1)
    theirs = await graph_of(await instances.make("theirs", keys_of="ours"), 2)
    assert len(people(ours)) == len(PEOPLE)
    assert theirs == ours


async def test_entities_stay_the_same_when_one_instance_has_rotated_its_index_key(instances: Instances) -> None:
    ours = await graph_of(await instances.make("ours"), 1)
    rotated = await graph_of(await instances.make("rotated", keys_of="ours", new_epoch=True), 3)
    assert len(people(ours)) == len(PEOPLE)
    assert people(rotated).keys() == people(ours).keys()
    assert not set(people(rotated).values()) & set(people(ours).values())
    assert without_tokens(rotated) == without_tokens(ours)


async def test_an_instance_with_keys_of_its_own_names_other_people_and_the_same_machines(instances: Instances) -> None:
    ours = await graph_of(await instances.make("ours"), 1)
    others = await graph_of(await instances.make("others"), 1)
    assert len(people(others)) == len(PEOPLE)
    assert not people(others).keys() & people(ours).keys()
    machines, same = ([row for row in graph if row[0] == "Entity" and row[2] == "ipv4"] for graph in (ours, others))
    assert len(machines) == 4
    assert same == machines
