"""A server of a test's own, and one that the tests of a module share where none of them changes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.support.pki import Pki
from tests.support.query_server import QueryServer, query_server

Serve = Callable[..., AbstractAsyncContextManager[QueryServer]]


@pytest.fixture
def serve(pki: Pki, tmp_path: Path, chdb_engine: ChdbEngine) -> Serve:
    """Makes a server on this test's folder; arguments are those of `query_server`."""
    return partial(query_server, pki, tmp_path, chdb_engine)


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[QueryServer]:
    """A server with the limits it has by default."""
    async with serve() as running:
        yield running
