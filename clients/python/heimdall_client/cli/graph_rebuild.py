"""`heimdall graph rebuild` and `heimdall graph refused`: the graph made again, and what its store wouldn't take."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Final

import typer

from heimdall_client.cli.console import err, note, out, plural, span
from heimdall_client.cli.operation_view import confirm
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from rich.progress import Progress

    from heimdall.graph.v1 import rebuild_pb2
    from heimdall_client.sync_client import Client

LOOK_S: Final = 0.5
"""How often it is asked how far it is."""
_LEFT_OUT: Final = "it has what the store and the journal still hold; records that retention has dropped, or that the store refused, are not in it"
_NEEDS: Final = "Needs the permission graph.rebuild."


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command, epilog in (
        (
            rebuild,
            examples(
                "heimdall graph rebuild --reason 'graph enabled on an old server' --yes",
                "heimdall graph rebuild --detach --yes",
                "heimdall graph rebuild --follow",
                more=f"Labels, notes, merges, imports and embeddings stay. {_NEEDS} It is audited.",
            ),
        ),
        (refused, examples("heimdall graph refused", more=f"Values aren't shown: they may be personal. {_NEEDS}")),
    ):
        app.command(epilog=epilog)(connected(command))


def rebuild(
    link: Link,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is in the audit log.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Begin none; follow the newest one.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Don't wait until it is done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Drop what records told the graph, and make it again from the store and the journal."""
    with link.client() as client:
        if follow:
            found = client.graph_rebuild()
        else:
            question = "drop the graph's observed facts and make them again? it is incomplete until that is done"
            confirm(question, yes=yes, instead="give --yes")
            found = client.rebuild_graph(reason=reason)
        if not detach and not found.HasField("end_time"):
            found = _follow(client, found)
    _show(found, output)


def refused(
    link: Link,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 100,
    output: Output = TextOutput.TABLE,
) -> None:
    """List facts that the graph's store refused, the newest first, and why."""
    from heimdall_client.cli.plain import print_json, to_plain, to_text

    with link.client() as client:
        found = client.refused_facts(limit=limit)
    if output is TextOutput.JSON:
        for one in found:
            print_json(to_plain(one))
        return
    rows = [
        [
            to_text(one.time)[:19],
            one.kind,
            one.vertex_id,
            one.dump or one.source,
            f"{one.first_position}-{one.last_position}",
            one.reason,
        ]
        for one in found
    ]
    if rows:
        show_table(table(["at", "is", "id", "of", "positions", "why"], rows, fold="why"))
    note(plural(len(rows), "refused fact"))


def _follow(client: Client, found: rebuild_pb2.Rebuild) -> rebuild_pb2.Rebuild:
    """Show how far it is until it is done. Ctrl-C leaves it to go on."""
    progress = _bar() if err().is_terminal else None
    task = None if progress is None else progress.add_task("rebuilding", total=found.position_count)
    told = ""
    with progress if progress is not None else nullcontext():
        while not found.HasField("end_time"):
            if found.problem and found.problem != told:
                told = found.problem
                err().print(f"waiting: {told}", style="yellow", soft_wrap=True)
            if progress is not None and task is not None:
                progress.update(task, completed=found.done_count, total=found.position_count)
            time.sleep(LOOK_S)
            found = client.graph_rebuild(found.rebuild_id)
    return found


def _show(found: rebuild_pb2.Rebuild, output: TextOutput) -> None:
    from heimdall_client.cli.plain import print_json, to_plain

    is_done = found.HasField("end_time")
    if output is TextOutput.JSON:
        print_json(to_plain(found))
    elif is_done:
        took_s = (found.end_time.ToNanoseconds() - found.create_time.ToNanoseconds()) / 1e9
        out().print(f"{plural(found.position_count, 'journal position')} made again in {span(took_s)}")
    else:
        out().print(f"rebuild {found.rebuild_id}: {found.done_count:,} of {found.position_count:,} journal positions")
    note(_LEFT_OUT if is_done else "follow it: heimdall graph rebuild --follow")


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err(),
        transient=True,
    )
