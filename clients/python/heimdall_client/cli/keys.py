"""`heimdall keys`: what there are, and rotations."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from heimdall_client.cli import operation_view
from heimdall_client.cli.console import note
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

_app = typer.Typer(name="keys", help="Keys: list and rotate them.", no_args_is_help=True)


class KeyKindOption(StrEnum):
    """Which keys."""

    KEK = "kek"
    DEK = "dek"
    INDEX = "index"


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(_app)


@_app.command("list", epilog=examples("heimdall keys list", "heimdall keys list -o json | jq -r .signing_public_key"))
@connected
def list_(link: Link, *, output: Output = TextOutput.TABLE) -> None:
    """List the keys, without anything secret."""
    from heimdall_client.cli.plain import enum_name, print_json, to_plain, to_text

    with link.client() as client:
        answer = client.keys()
    if output is TextOutput.JSON:
        print_json(to_plain(answer))
        return
    rows = [
        [
            key.kind,
            key.data_class,
            key.number or None,
            enum_name(key.DESCRIPTOR.enum_types_by_name["State"], key.state),
            key.value_count if key.kind == "data" else None,
            to_text(key.create_time)[:19] if key.HasField("create_time") else "",
            key.key_id,
        ]
        for key in answer.keys
    ]
    show_table(table(["kind", "class", "number", "state", "values", "made", "id"], rows))
    note(f"certificates of erasure are signed by {answer.signing_public_key.hex()}")


@_app.command(
    epilog=examples(
        "heimdall keys rotate index --reason 'yearly'",
        "heimdall keys rotate dek --class email --class phone --reason 'ticket 4711'",
        "heimdall keys rotate kek --reason 'moved to KMS'",
        more="Records go on coming in and are found before, during and after. kek goes over to the key that keys.next names in the "
        "server's configuration; without it a key file is replaced, and the newest version of a service's key is used.",
    )
)
@connected
def rotate(
    link: Link,
    *,
    kind: Annotated[KeyKindOption, typer.Argument(metavar="kek|dek|index", help="Which keys.")],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", help="Only data keys of this class; may be repeated."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; stays in the audit log.", show_default=False)],
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't follow it until it ends.")] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Start a rotation and follow it. It goes on when this command is stopped, and after a restart of the server.

    Of data keys: returns when all values are sealed under new keys. The old ones are destroyed when the journal has let go of the
    last copy that they open; the operation ends then, and says until when that takes.
    """
    with link.client() as client:
        operation = client.rotate_key(kind.value, data_classes=classes or (), reason=reason)
        operation_view.follow(client, operation, output, wait=not no_wait, until_resealed=True)


@_app.command(epilog=examples("heimdall keys status"))
@connected
def status(link: Link, *, output: Output = TextOutput.TABLE) -> None:
    """Show the rotations: those that run, and the last ones."""
    with link.client() as client:
        found = client.operations(limit=200)
    kinds = {"KIND_ROTATE_KEK", "KIND_ROTATE_DEK", "KIND_ROTATE_INDEX"}
    rotations = [one for one in found if one.Kind.Name(one.kind) in kinds]
    operation_view.show(rotations[:20], output)
    if not rotations:
        note("no key was rotated yet")
