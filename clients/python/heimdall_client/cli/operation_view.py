"""How operations are shown: one line each, or followed until they end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from heimdall_client.cli.console import err, note
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.options import TextOutput
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall.privacy.v1 import operation_pb2
    from heimdall_client.sync_client import Client

RESEALED = "sealed anew"
"""What the stage of a rotation of data keys begins with once nothing needs the old keys any more."""
COLUMNS = ["id", "kind", "state", "done", "since", "asked by", "stage"]


def show(operations: Sequence[operation_pb2.Operation], output: TextOutput) -> None:
    """Print operations."""
    from heimdall_client.cli.plain import enum_name, print_json, to_plain, to_text

    if output is TextOutput.JSON:
        for one in operations:
            print_json(to_plain(one))
        return
    kinds = operations[0].DESCRIPTOR.enum_types_by_name if operations else {}
    rows = [
        [
            one.operation_id,
            enum_name(kinds["Kind"], one.kind),
            enum_name(kinds["State"], one.state),
            progress(one),
            to_text(one.create_time)[:19],
            one.actor,
            _told(one),
        ]
        for one in operations
    ]
    if rows:
        show_table(table(COLUMNS, rows, fold="stage"))


def progress(operation: operation_pb2.Operation) -> str:
    """How far it is: `3 of 7`."""
    if operation.total_count:
        return f"{operation.done_count:,} of {operation.total_count:,}"
    return f"{operation.done_count:,}" if operation.done_count else ""


def follow(
    client: Client,
    operation: operation_pb2.Operation,
    output: TextOutput,
    *,
    wait: bool,
    until_inaccessible: bool = False,
    until_resealed: bool = False,
) -> None:
    """Show an operation, and if wanted its progress until it ends.

    Args:
        client: Where it runs.
        operation: As it is.
        output: How to show it.
        wait: Follow it.
        until_inaccessible: Only until what it concerns can no longer be read: what comes then waits for the journal, for days.
        until_resealed: Only until a rotation has sealed everything anew: the destruction of old keys waits for the journal, too.

    Raises:
        typer.Exit: It failed or was cancelled.
    """
    last, told = operation, ""
    if wait:
        for last in client.watch_operation(operation.operation_id):
            line = " · ".join(text for text in (last.stage, progress(last), last.problem) if text)
            if line and line != told:
                note(line)
                told = line
            if until_inaccessible and last.HasField("inaccessible_time"):
                break
            if until_resealed and last.stage.startswith(RESEALED):
                break
    show([last], output)
    states = type(last)
    if last.state == states.STATE_FAILED:
        err().print(f"error: {last.operation_id} failed: {last.problem}", style="red", soft_wrap=True)
    if last.state in (states.STATE_FAILED, states.STATE_CANCELLED):
        raise typer.Exit(ExitCode.FAILED)
    if last.state == states.STATE_RUNNING:
        note(f"follow it: heimdall privacy operations watch {last.operation_id}")


def confirm(question: str, *, yes: bool, instead: str = "give --yes, or --dry-run to see what would happen") -> None:
    """Ask, unless the answer is known; without a terminal nobody can, and `instead` is to be done."""
    if yes:
        return
    if not sys.stdin.isatty():
        msg = f"nobody is there to ask; {instead}"
        raise typer.BadParameter(msg)
    typer.confirm(question, abort=True, err=True)


def _told(operation: operation_pb2.Operation) -> str:
    return f"{operation.stage}: {operation.problem}" if operation.problem else operation.stage
