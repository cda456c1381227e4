"""`heimdall dead-letters`: what couldn't be decoded, another try, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from heimdall_client.cli.console import count, err, note, out, plural, size, warn
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.formats import FormatName, FormatOption, PatternOption, format_options
from heimdall_client.cli.operation_view import confirm
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall.ingest.v1 import ingest_service_pb2

REQUEST_COUNT_MAX: Final = 1000
"""Of one request."""
_TOLD_MAX: Final = 10

_app = typer.Typer(
    name="dead-letters", help="List what couldn't be decoded, decode it again, or delete it.", no_args_is_help=True
)

_Source = Annotated[str, typer.Option("--source", metavar="ID", help="Only of this source.")]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(_app)


@_app.command(
    "list", epilog=examples("heimdall dead-letters list", "heimdall dead-letters list -o json | jq -r .reason")
)
@connected
def list_(
    link: Link,
    *,
    source: _Source = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 100,
    output: Output = TextOutput.TABLE,
) -> None:
    """List records that couldn't be decoded, newest first. Their content is never shown."""
    with link.client() as client:
        answer = client.list_dead_letters(source_id=source, limit=limit)
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        for one in answer.dead_letters:
            print_json(to_plain(one))
        return
    from heimdall_client.cli.plain import to_text

    rows = [
        [
            one.dead_letter_id,
            to_text(one.create_time)[:19],
            one.source_id,
            one.offset,
            one.format,
            f"{one.field}: {one.reason}" if one.field else one.reason,
            size(one.raw_bytes_count) if one.raw_bytes_count else "not kept",
        ]
        for one in answer.dead_letters
    ]
    if rows:
        show_table(table(["id", "time", "source", "offset", "read as", "reason", "bytes"], rows, fold="reason"))
    note(f"{count(len(rows))} of {plural(answer.total_count, 'dead letter')}")


@_app.command(
    "retry",
    epilog=examples(
        "heimdall dead-letters retry 0-17-0 0-17-1",
        "heimdall dead-letters retry --all --source access --format text --pattern nginx",
        more="Exit code 3 if some still can't be decoded.",
    ),
)
@connected
def retry(
    link: Link,
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters, by id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, or all of --source.")] = False,
    source: _Source = "",
    format_: FormatName = None,
    pattern: PatternOption = None,
    format_option: FormatOption = None,
    output: Output = TextOutput.TABLE,
) -> None:
    """Decode dead letters again, perhaps as another format, and store what now can be."""
    if bool(ids) == every:
        msg = "name dead letters, or give --all"
        raise typer.BadParameter(msg)
    name, options = format_options(format_, pattern, format_option)
    outcomes: list[ingest_service_pb2.RetryDeadLettersResponse.Outcome] = []
    with link.client() as client:
        wanted = list(ids or [])
        if every:
            letters = client.list_dead_letters(source_id=source, limit=10_000_000).dead_letters
            wanted = [letter.dead_letter_id for letter in letters]
        for start in range(0, len(wanted), REQUEST_COUNT_MAX):
            answer = client.retry_dead_letters(
                wanted[start : start + REQUEST_COUNT_MAX], read_as=name, format_options=options
            )
            outcomes += answer.outcomes
    # Of `--all`, one that is gone was settled by another call meanwhile; one that was named should be there.
    unknown = [] if every else [one for one in outcomes if _is_unknown(one)]
    failed = [one for one in outcomes if one.status.code and one not in unknown]
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json

        for one in outcomes:
            reason = one.status.message if one.status.code else None
            print_json(
                {
                    "dead_letter_id": one.dead_letter_id,
                    "accepted_count": one.accepted_count,
                    "deleted_count": one.deleted_count,
                    "problem": reason,
                }
            )
    elif len(unknown) < len(outcomes):
        accepted = sum(one.accepted_count for one in outcomes)
        known_count = len(outcomes) - len(unknown)
        decoded = known_count - len(failed)
        told = f"{count(decoded)} of {plural(known_count, 'dead letter')} decoded, {plural(accepted, 'record')} stored"
        if deleted := sum(one.deleted_count for one in outcomes):
            told += f", {plural(deleted, 'record')} left out by a deletion"
        out().print(told)
        for one in failed[:_TOLD_MAX]:
            warn(f"{one.dead_letter_id}: {one.status.message}")
        if len(failed) > _TOLD_MAX:
            note(f"and {len(failed) - _TOLD_MAX:,} more")
    _tell_errors(unknown)
    if unknown:
        raise typer.Exit(ExitCode.FAILED)
    if failed:
        raise typer.Exit(ExitCode.REJECTED)


@_app.command(
    "delete",
    epilog=examples("heimdall dead-letters delete 17-0 17-1", "heimdall dead-letters delete 17-0 --yes"),
)
@connected
def delete(
    link: Link,
    *,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Dead letters, by id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Delete dead letters: nobody can list or decode them again.

    Their bytes lie encrypted in the journal, and go with its segment (`journal.age_max_s`).
    """
    confirm(f"delete {plural(len(set(ids)), 'dead letter')} for good?", yes=yes, instead="give --yes")
    outcomes: list[ingest_service_pb2.DeleteDeadLettersResponse.Outcome] = []
    with link.client() as client:
        for start in range(0, len(ids), REQUEST_COUNT_MAX):
            outcomes += client.delete_dead_letters(ids[start : start + REQUEST_COUNT_MAX]).outcomes
    failed = [one for one in outcomes if one.status.code]
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json

        for one in outcomes:
            reason = one.status.message if one.status.code else None
            print_json({"dead_letter_id": one.dead_letter_id, "deleted": reason is None, "problem": reason})
    else:
        out().print(f"{count(len(outcomes) - len(failed))} of {plural(len(outcomes), 'dead letter')} deleted")
    _tell_errors(failed)
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _tell_errors(
    outcomes: Sequence[
        ingest_service_pb2.RetryDeadLettersResponse.Outcome | ingest_service_pb2.DeleteDeadLettersResponse.Outcome
    ],
) -> None:
    for one in outcomes[:_TOLD_MAX]:
        err().print(f"error: {one.status.message}", style="red", soft_wrap=True)
    if len(outcomes) > _TOLD_MAX:
        note(f"and {len(outcomes) - _TOLD_MAX:,} more")


def _is_unknown(outcome: ingest_service_pb2.RetryDeadLettersResponse.Outcome) -> bool:
    """Whether there is no such letter: one whose bytes weren't kept is another matter."""
    if not outcome.status.code:
        return False
    from heimdall_client.errors import NotFoundError
    from heimdall_client.status import from_status

    error = from_status(outcome.status)
    return isinstance(error, NotFoundError) and error.metadata.get("kind") == "dead letter"
