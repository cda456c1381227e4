from __future__ import annotations

import asyncio
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import heimdall_client
from heimdall_client.loop_thread import LoopThread
from tests.support.pki import Pki
from tests.support.sdk_server import FakeServer, client_config

MODULES = sorted(
    f"heimdall_client.{module.name}" for module in pkgutil.iter_modules(heimdall_client.__path__) if not module.ispkg
)
EXAMPLES = [
    pytest.param(test, id=test.name)
    for name in ["heimdall_client", *MODULES]
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if test.examples
]
ENDLESS = ("Watches", ".watch")
"""Examples that follow live queries: they end when nobody is left to watch."""


@pytest.fixture(scope="module")
def portal() -> Iterator[LoopThread]:
    loop_thread = LoopThread()
    yield loop_thread
    loop_thread.close()


@pytest.fixture(scope="module")
def server(portal: LoopThread, pki: Pki) -> Iterator[FakeServer]:
    async def make() -> FakeServer:
        return FakeServer(pki)

    running = portal.run(make())
    portal.run(running.start())
    yield running
    portal.run(running.stop())


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(
    example: doctest.DocTest, server: FakeServer, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = client_config(pki, address=server.address)
    for key in ("address", "ca_file", "cert_file", "key_file"):
        monkeypatch.setenv(f"HEIMDALL_{key.upper()}", str(getattr(config, key)))
    (tmp_path / "app.log").write_bytes(b"one\ntwo\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {name: getattr(heimdall_client, name) for name in heimdall_client.__all__}
    example.globs = {**names, "heimdall_client": heimdall_client}
    result = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(example, clear_globs=False)
    assert result.failed == 0
    main = example.globs.get("main")
    if main is None:
        return
    if example.name.endswith(ENDLESS):
        return
    if inspect.iscoroutinefunction(main):
        asyncio.run(main())
    else:
        main()
