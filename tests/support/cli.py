"""Runs the `heimdall` command: inside the test's process, which is quick, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from heimdall_client.cli import program
from tests.support.server_process import ServerProcess

# Typer reads it once, when it first has something to tell.
os.environ.setdefault("TERMINAL_WIDTH", "200")

COMMAND: Final = [sys.executable, "-c", "from heimdall_client.cli import main; main()"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str
    out_bytes: bytes = b""

    def lines(self) -> list[str]:
        """Of standard output."""
        return self.out.splitlines()

    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    def rows(self) -> list[dict[str, Any]]:
        """Standard output as JSON, one object a line."""
        return [json.loads(line) for line in self.lines()]


def invoke(*arguments: str | Path, config: Path | None = None, stdin: bytes = b"") -> Outcome:
    """Run a command in this process, as on a pipe.

    Args:
        arguments: Of the command line.
        config: The client's configuration.
        stdin: What standard input holds.
    """
    given = [*(["--config", str(config)] if config is not None else []), *map(str, arguments)]
    with _streams(stdin) as (out, err):
        code = program.run(given)
        sys.stdout.flush()
        sys.stderr.flush()
        raw, said = out.getvalue(), err.getvalue()
    return Outcome(int(code), raw.decode("utf-8", "replace"), said.decode(), raw)


def invoke_on(server: ServerProcess, *arguments: str | Path, stdin: bytes = b"") -> Outcome:
    """Run a command as the server's administrator, in this process."""
    return invoke(*arguments, config=server.client_file, stdin=stdin)


def query_on(server: ServerProcess, *arguments: str) -> Outcome:
    """Run a query that must succeed and sees all that is acknowledged."""
    outcome = invoke_on(server, "query", *arguments, "--consistent")
    assert outcome.code == 0, outcome.err
    return outcome


def run(*arguments: str | Path, config: Path | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own."""
    return subprocess.run(line(*arguments, config=config), capture_output=True, timeout=60, check=False, **options)


def line(*arguments: str | Path, config: Path | None = None) -> list[str]:
    """The command line of a process of its own."""
    return [*COMMAND, *(["--config", str(config)] if config is not None else []), *map(str, arguments)]


@contextlib.contextmanager
def _streams(stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    out, err = io.BytesIO(), io.BytesIO()
    with (
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")),
        mock.patch.object(sys, "stdout", io.TextIOWrapper(out, "utf-8", write_through=True)),
        mock.patch.object(sys, "stderr", io.TextIOWrapper(err, "utf-8", write_through=True)),
    ):
        yield out, err
