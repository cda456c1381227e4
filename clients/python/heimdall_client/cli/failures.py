"""Problems as a person reads them: what happened, what to do, where in the query; and the exit code of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer

from heimdall_client.cli.console import drop_output, err
from heimdall_client.cli.exits import ExitCode

if TYPE_CHECKING:
    from heimdall_client.errors import HeimdallError

CARET_MARGIN: Final = 8
"""Columns of the query that stay visible behind the caret where the terminal is narrow."""


@contextmanager
def told(*, verbose: bool) -> Iterator[None]:
    """Turn the SDK's errors into sentences on standard error and an exit code."""
    try:
        yield
    except BrokenPipeError as error:
        drop_output()
        raise typer.Exit(ExitCode.PIPE_CLOSED) from error
    except (typer.Exit, typer.Abort, typer.TyperException):
        raise
    except Exception as error:
        # Loaded only when something went wrong or gRPC is loaded anyway.
        from heimdall_client.errors import HeimdallError

        if not isinstance(error, HeimdallError):
            raise
        report(error, verbose=verbose)
        raise typer.Exit(exit_code(error)) from error


def exit_code(error: HeimdallError) -> ExitCode:
    """Whose fault it is."""
    from heimdall_client import errors

    mine = (
        errors.ConfigError,
        errors.MissingLibraryError,
        errors.QueryInvalidError,
        errors.InvalidArgumentError,
        errors.TokenInvalidError,
        errors.NotFoundError,
    )
    return ExitCode.USAGE if isinstance(error, mine) else ExitCode.FAILED


def report(error: HeimdallError, *, verbose: bool, what: str = "") -> None:
    """Print a problem.

    Args:
        error: Of the SDK.
        verbose: With code, reason, metadata and request id.
        what: What it happened to, if the sentence doesn't say it.
    """
    from rich.text import Text

    lines = sentence(error).splitlines() or [""]
    prefix = f"{what}: " if what else ""
    err().print(Text.assemble(("error: ", "bold red"), prefix + lines[0]), soft_wrap=True)
    for line in lines[1:]:
        err().print(f"  {line.strip()}", soft_wrap=True)
    for line in pointed(error, width=err().width):
        err().print(Text(line, "bold red" if not line.strip(" ^") else ""), soft_wrap=True)
    if verbose:
        for line in details(error):
            err().print(f"  {line}", style="dim", soft_wrap=True)


def sentence(error: HeimdallError) -> str:
    """What happened and what to do; further lines are further problems."""
    from heimdall_client.errors import RpcError

    if not isinstance(error, RpcError):
        return str(error)
    lines = [error.message or error.code.name.lower().replace("_", " ")]
    lines += [
        f"{violation.field}: {violation.description}"
        for violation in error.field_violations
        if violation.description not in error.message
    ]
    if error.retry_after_s is not None and "try again in" not in error.message:
        lines[0] += f" (try again in {error.retry_after_s:g} s)"
    return "\n".join(lines)


def pointed(error: HeimdallError, *, width: int) -> list[str]:
    """The query with a caret under the problem; where it is wider than the terminal, the part around the caret."""
    from heimdall_client.errors import QueryInvalidError

    if not isinstance(error, QueryInvalidError) or not error.pointed:
        return []
    query, _, caret = error.pointed.rpartition("\n")
    left = max(0, len(caret) - max(width - 2 - CARET_MARGIN, 20))
    if left:
        query, caret = "…" + query[left + 1 :], caret[left:]
    return [f"  {query[: max(width - 2, 20)]}", f"  {caret}"]


def details(error: HeimdallError) -> list[str]:
    """For people who look further: status, reason, metadata, request id."""
    from heimdall_client.errors import GaveUpError, HeimdallError, RpcError

    if isinstance(error, GaveUpError) and isinstance(error.last, HeimdallError):
        return details(error.last)
    if not isinstance(error, RpcError):
        return [type(error).__name__]
    lines = [f"status {error.code.name}" + (f", reason {error.reason}" if error.reason else "")]
    lines += [f"{key}: {value}" for key, value in error.metadata.items() if key not in ("pointed", "request_id")]
    lines.append(f"request {error.request_id}" if error.request_id else "no request id: no server answered")
    return lines
