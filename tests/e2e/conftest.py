"""What the tests of whole processes share."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from tests.support import cli
from tests.support.server_process import ServerProcess, server

__all__ = ["server"]


@pytest.fixture
def word() -> str:
    """A word of the test's own, to find its records by."""
    return f"w{uuid.uuid4().hex[:12]}"


@pytest.fixture
def logs(server: ServerProcess, tmp_path: Path, word: str) -> Path:
    """A file of ten lines, taken in."""
    path = tmp_path / "app.ndjson"
    levels = ("info", "error")
    rows = [
        {"msg": f"line {n} {word}", "level": levels[n % 2], "service": f"svc{n % 3}", "n": n, "tag": {"a": "b,c"}}
        for n in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = cli.invoke_on(server, "ingest", path)
    assert outcome.code == 0, outcome.err
    return path
