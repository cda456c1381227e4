"""`heimdall privacy reveal`: the values behind what stands in records."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from heimdall_client.cli.console import note, warn
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.options import Link, Output, Since, TextOutput, Until, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

TOKEN: Final = re.compile(r"\[[a-z][a-z0-9_]{0,31}:[0-9a-z][a-z2-7]{26}\]")
ENCRYPTED: Final = re.compile(r"\[enc:[a-z][a-z0-9_]{0,31}:[A-Za-z0-9_-]+\]")

Asked = tuple[str, str, str]
"""Text, field, class; field and class are empty for tokens."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "heimdall privacy reveal '[email:0k9fabcdefghijklmnopqrstuvw]' --reason 'ticket 4711'",
            "heimdall privacy reveal --from-query 'service:login AND severity:>=ERROR' --reason 'ticket 4711'",
            "heimdall query timeout | heimdall privacy reveal - --reason 'ticket 4711'",
            "heimdall privacy reveal '[enc:email:AgAA…]' --field attributes.user --reason 'ticket 4711'",
            "heimdall privacy reveal 9734620158 --class phone --reason 'ticket 4711'   # format-preserving",
            more="Each call leaves an entry in the audit log. Exit code 4 if some have no value.",
        )
    )(reveal)


@connected
def reveal(
    link: Link,
    *,
    tokens: Annotated[
        list[str] | None, typer.Argument(metavar="TOKEN", help="Tokens or encrypted values; - takes them from stdin.")
    ] = None,
    from_query: Annotated[str, typer.Option("--from-query", metavar="QUERY", help="Those in a query's result.")] = "",
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many records of the query.")] = 1000,
    field: Annotated[
        str, typer.Option("--field", help="That encrypted values stand in; they are bound to it.", show_default=False)
    ] = "",
    data_class: Annotated[
        str, typer.Option("--class", help="Of values that kept their form; the arguments are such values.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why; stays in the audit log.", show_default=False)],
    output: Output = TextOutput.TABLE,
) -> None:
    """Show the values behind tokens, and those that were encrypted where they stand."""
    if bool(tokens) == bool(from_query):
        msg = "give tokens or --from-query, not both" if tokens else "name tokens, or give --from-query"
        raise typer.BadParameter(msg)
    with link.client() as client:
        if from_query:
            found = client.search(from_query, since=since, until=until, limit=limit, encoding="json")
            asked = list(dict.fromkeys(one for row in found for one in in_row(row)))
        elif tokens == ["-"]:
            text = sys.stdin.read()
            asked = list(dict.fromkeys(line_values(text, data_class) if data_class else in_text(text, field)))
        else:
            asked = [_asked(text, field, data_class) for text in tokens or ()]
        if not asked:
            note("no tokens there")
            return
        named = [one for one in asked if not _is_written(one)]
        written = [one for one in asked if _is_written(one)]
        revealed = client.reveal(
            [text for text, _, _ in named],
            reason=reason,
            written=[{"text": text, "field": name, "data_class": kind} for text, name, kind in written],
        )
    answers = [(text, one) for (text, _, _), one in zip([*named, *written], revealed, strict=True)]
    missing = [(text, one) for text, one in answers if one.HasField("error")]
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json

        for text, one in answers:
            problem = one.error.message if one.HasField("error") else None
            print_json({"token": text, "value": None if problem else one.value, "problem": problem})
    else:
        rows = [[text, one.value] for text, one in answers if not one.HasField("error")]
        if rows:
            show_table(table(["token", "value"], rows, fold="value"))
        for text, one in missing[:10]:
            warn(f"{text}: {one.error.message}")
        if len(missing) > 10:
            note(f"and {len(missing) - 10:,} more")
    if missing:
        raise typer.Exit(ExitCode.INCOMPLETE)


def in_text(text: str, field: str = "") -> Iterator[Asked]:
    """Tokens and encrypted values in a text."""
    yield from ((token, "", "") for token in TOKEN.findall(text))
    yield from ((encrypted, field, "") for encrypted in ENCRYPTED.findall(text))


def in_row(row: Mapping[str, Any]) -> Iterator[Asked]:
    """Tokens and encrypted values in a record, with the fields that these stand in."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from in_text(str(key), name)
                yield from in_text(str(item), f"{name}.{key}")
        elif isinstance(value, str):
            yield from in_text(value, name)


def line_values(text: str, data_class: str) -> Iterable[Asked]:
    """Values that kept their form, one a line."""
    return ((line.strip(), "", data_class) for line in text.splitlines() if line.strip())


def _is_written(one: Asked) -> bool:
    text, _, data_class = one
    return bool(data_class) or ENCRYPTED.fullmatch(text) is not None


def _asked(text: str, field: str, data_class: str) -> Asked:
    if data_class:
        return text, "", data_class
    return (text, field, "") if ENCRYPTED.fullmatch(text) else (text, "", "")
