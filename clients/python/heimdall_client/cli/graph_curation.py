"""`heimdall graph label, note, merge, split`: what people decide about the graph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from heimdall_client.cli.console import note as say
from heimdall_client.cli.graph import NAMES, Vertex, check_vertex, parse_tlp
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples

if TYPE_CHECKING:
    from google.protobuf.message import Message

_MASKED = "Personal data in texts is masked before they are kept. Needs the permission graph.curate, and is audited."
_MORE = f"{NAMES} {_MASKED}"
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is in the audit log.")]
Marking = Annotated[
    str, typer.Option("--tlp", metavar="LABEL", help="How far it may go: clear … red; amber where nothing is said.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command, epilog in (
        (
            label,
            examples(
                "heimdall graph label domain:evil.example c2 --reason 'seen in case 17'",
                "heimdall graph label domain:evil.example c2 --remove",
                more=_MORE,
            ),
        ),
        (
            note,
            examples(
                "heimdall graph note ip:203.0.113.7 'answers on port 4444 only'",
                "heimdall graph note ip:203.0.113.7 - < findings.txt",
                "heimdall graph note ip:203.0.113.7 'answers no more' --edit 3f0c… --etag 1",
                "heimdall graph note ip:203.0.113.7 --remove 3f0c…",
                more=f"`graph show VERTEX` tells a note's id and etag; --edit and --remove go by the id. {_MORE}",
            ),
        ),
        (
            merge,
            examples(
                "heimdall graph merge domain:www.evil.example domain:evil.example --reason 'one machine'", more=_MORE
            ),
        ),
        (split, examples("heimdall graph split domain:www.evil.example", more=_MORE)),
    ):
        app.command(epilog=epilog)(connected(command))


def label(
    link: Link,
    vertex: Vertex,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="A word, or a few.", show_default=False)],
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Take it off.")] = False,
    reason: Reason = "",
    tlp: Marking = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """Put a label on a vertex, or take it off."""
    if remove and tlp:
        raise typer.BadParameter("it is for a new label, not for --remove", param_hint="--tlp")
    marking = parse_tlp(tlp)
    with link.client() as client:
        done = (
            client.remove_label(vertex, label, reason=reason)
            if remove
            else client.add_label(vertex, label, tlp=marking, reason=reason)
        )
    if output is TextOutput.JSON:
        _print(done)
    else:
        say(f"{'took off' if remove else 'labelled'} {done.vertex_id}: {done.label}")


def note(
    link: Link,
    vertex: Vertex,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text; -: from standard input.", show_default=False)
    ] = None,
    *,
    edit: Annotated[str, typer.Option("--edit", metavar="NOTE", help="Give this note the text.")] = "",
    remove: Annotated[str, typer.Option("--remove", metavar="NOTE", help="Delete this note.")] = "",
    etag: Annotated[str, typer.Option("--etag", help="The version that you saw; with --edit it must be said.")] = "",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Of --remove, for the audit log.")] = "",
    tlp: Marking = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """Write a note about a vertex, change or delete one."""
    _check_note(text, edit, remove, etag, reason, tlp)
    marking = parse_tlp(tlp)
    body = sys.stdin.read() if text == "-" else text or ""
    with link.client() as client:
        if remove:
            kept, did = client.remove_note(remove, etag=etag, reason=reason), "deleted"
        elif edit:
            kept, did = client.change_note(edit, body, etag=etag), "changed"
        else:
            kept, did = client.add_note(vertex, body, tlp=marking), "kept"
    if output is TextOutput.JSON:
        _print(kept)
    else:
        say(f"{did} note {kept.note_id}, etag {kept.etag}, about {kept.vertex_id}")


def merge(
    link: Link,
    vertex: Vertex,
    into: Annotated[
        str,
        typer.Argument(
            metavar="INTO", help="What it is part of from now on.", show_default=False, callback=check_vertex
        ),
    ],
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with it, and in the audit log.")],
    etag: Annotated[str, typer.Option("--etag", help="Of the merge that this one replaces.")] = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """Say that an entity is another one: they are shown and walked as one, until they are split."""
    with link.client() as client:
        kept = client.merge_entities(vertex, into, reason=reason, etag=etag)
    if output is TextOutput.JSON:
        _print(kept)
    else:
        say(f"{kept.vertex_id} is part of {kept.into_vertex_id}, etag {kept.etag}")


def split(
    link: Link,
    vertex: Vertex,
    *,
    reason: Reason = "",
    etag: Annotated[str, typer.Option("--etag", help="Of the merge that may go; else any.")] = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """Take an entity out of the one that it was merged into."""
    with link.client() as client:
        undone = client.split_entity(vertex, reason=reason, etag=etag)
    if output is TextOutput.JSON:
        _print(undone)
    else:
        say(f"{undone.vertex_id} is no part of {undone.into_vertex_id} any more")


def _check_note(text: str | None, edit: str, remove: str, etag: str, reason: str, tlp: str) -> None:
    """Refuse options that don't go together before anything is sent."""
    if edit and remove:
        raise typer.BadParameter("either --edit or --remove", param_hint="--remove")
    if remove and text is not None:
        raise typer.BadParameter("--remove takes no text", param_hint="TEXT")
    if not remove and text is None:
        raise typer.BadParameter("say what to write; -: from standard input", param_hint="TEXT")
    if edit and not etag:
        raise typer.BadParameter(
            "say which version you saw: `heimdall graph show VERTEX` tells it", param_hint="--etag"
        )
    if etag and not (edit or remove):
        raise typer.BadParameter("it is for --edit and --remove", param_hint="--etag")
    if reason and not remove:
        raise typer.BadParameter("it is for --remove", param_hint="--reason")
    if tlp and (edit or remove):
        raise typer.BadParameter("it is for a new note", param_hint="--tlp")


def _print(message: Message) -> None:
    from heimdall_client.cli.plain import print_json, to_plain

    print_json(to_plain(message))
