"""The filter of a deletion lies sealed in the ledger, and is read again; what an older version wrote is, too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.text_sealing import TextSealer
from heimdall_server.domain.errors import IntegrityError
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.storage.ledger.chain import ChainLog
from heimdall_server.storage.ledger.ledger import PURPOSE, FileLedger
from tests.support.journal import ManualClock
from tests.support.sealed_filters import FILTERS

DELETION = Operation(
    "delete-1", OperationKind.DELETE, "anna", "leaked", 1, 1, query='"Zebra77horse"', shown_query='body:"…"'
)


async def test_a_filter_is_sealed_at_rest_and_read_again(tmp_path: Path) -> None:
    for _ in range(2):
        ledger = await FileLedger.open(tmp_path, clock=ManualClock(), filters=FILTERS)
        await ledger.operations.write(DELETION)
        assert list(await ledger.operations.load()) == [DELETION]
        await ledger.close()
    written = await asyncio.to_thread(_chain, tmp_path)
    assert b"Zebra77" not in written
    sealed = [json.loads(line[65:])["d"]["operation"]["sealed_query"] for line in written.splitlines()[1:]]
    # Equal filters don't look equal.
    assert len(set(sealed)) == 2


async def test_another_key_does_not_open_it_and_neither_does_another_operation(tmp_path: Path) -> None:
    sealed = FILTERS.seal("delete-1", "x")
    assert FILTERS.open("delete-1", sealed) == "x"
    other = TextSealer(RootKey(b"g" * 32), "deletion_filter")
    for sealer, place in ((other, "delete-1"), (FILTERS, "delete-2")):
        with pytest.raises(IntegrityError):
            sealer.open(place, sealed)
    ledger = await FileLedger.open(tmp_path, clock=ManualClock(), filters=FILTERS)
    await ledger.operations.write(DELETION)
    await ledger.close()
    ledger = await FileLedger.open(tmp_path, clock=ManualClock(), filters=other)
    with pytest.raises(IntegrityError):
        await ledger.operations.load()
    await ledger.close()


async def test_an_entry_of_an_older_version_is_read(tmp_path: Path) -> None:
    chain = await ChainLog.open(tmp_path, PURPOSE, now_ns=lambda: 1)
    old = {"operation_id": "delete-0", "kind": "delete", "state": "running", "actor": "a", "query": "leak"}
    await chain.append({"operation": {**old, "create_time_ns": 1, "update_time_ns": 1}})
    await chain.close()
    ledger = await FileLedger.open(tmp_path, clock=ManualClock(), filters=FILTERS)
    (found,) = await ledger.operations.load()
    await ledger.close()
    assert (found.query, found.shown_query) == ("leak", "")


def _chain(folder: Path) -> bytes:
    (file,) = folder.glob("*.chain")
    return file.read_bytes()
