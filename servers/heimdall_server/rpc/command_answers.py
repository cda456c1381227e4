"""How the commands that need no running server answer, as text or JSON, and how they tell what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from heimdall_server.domain.errors import ConfigurationError, HeimdallError


class Output(StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to answer.")]


def answer(output: Output, value: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write the value as JSON, or the lines."""
    typer.echo(json.dumps(value, ensure_ascii=False) if output is Output.JSON else "\n".join(lines))


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn errors into a sentence each on stderr, and exit code 1."""
    try:
        yield
    except HeimdallError as error:
        for line in error.problems if isinstance(error, ConfigurationError) else (str(error),):
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        typer.echo(f"error: {error.filename or ''}: {error.strerror}", err=True)
        raise typer.Exit(1) from error
