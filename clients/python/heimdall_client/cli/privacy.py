"""`heimdall privacy`: reveal, erase, export, and the operations that take long."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from heimdall_client.cli import operation_view, privacy_policy, privacy_reveal
from heimdall_client.cli.console import note, out, plural, warn, write_line
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.options import Link, Output, Since, TextOutput, Until, connected, examples

if TYPE_CHECKING:
    from heimdall.privacy.v1 import operation_pb2

_ARGV: Final = (
    "Arguments of a process are visible to other users of the machine: --subject - reads the values from stdin."
)
_END_BYTES_MAX: Final = 4096
"""Of the last line of an export."""

_app = typer.Typer(name="privacy", help="Personal data: who may see it, and how it goes.", no_args_is_help=True)
_operations = typer.Typer(name="operations", help="Rotations, erasures and deletions.", no_args_is_help=True)

Reason = Annotated[str, typer.Option("--reason", help="Why; stays in the audit log.", show_default=False)]
Subject = Annotated[
    list[str],
    typer.Option(
        "--subject", metavar="CLASS:VALUE", help="What the subject is known by; may be repeated; - reads stdin."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Don't follow the operation until it ends.")]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    privacy_reveal.add_to(_app)
    _app.add_typer(privacy_policy.app)
    _app.add_typer(_operations)
    app.add_typer(_app)


@_app.command(
    epilog=examples(
        "heimdall privacy erase --subject email:alice@example.com --reason 'art. 17 request' --dry-run",
        "printf 'email:%s\\n' \"$ADDRESS\" | heimdall privacy erase --subject - --reason 'art. 17 request' --yes",
        more=_ARGV,
    )
)
@connected
def erase(
    link: Link,
    *,
    subject: Subject,
    reason: Reason,
    block: Annotated[bool, typer.Option("--block", help="Keep out what comes in of the subject later, too.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    no_wait: NoWait = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Make a subject's values inaccessible at once, and destroy the keys that could open them."""
    values = read_subject(subject)
    with link.client() as client:
        planned = client.erase(values, reason=reason, dry_run=True, block=block)
        _show_scope(planned.scope, output if dry_run else None)
        if dry_run:
            return
        operation_view.confirm("erase these values for good?", yes=yes)
        operation = client.erase(values, reason=reason, block=block).operation
        note(f"certificate: heimdall privacy certificate {operation.operation_id}")
        # Shredding waits for the journal, which may take days: what is waited for here is that nobody can read them.
        operation_view.follow(client, operation, output, wait=not no_wait, until_inaccessible=True)


@_app.command(
    epilog=examples(
        "heimdall privacy certificate erase-1a2b3c4d5e6f > certificate.json",
        "heimdall privacy certificate --verify certificate.json --public-key 3b6a27bc…",
    )
)
@connected
def certificate(
    link: Link,
    *,
    operation_id: Annotated[str, typer.Argument(metavar="OPERATION", help="Id of the erasure.")] = "",
    verify: Annotated[Path | None, typer.Option("--verify", metavar="FILE", help="Check one that was kept.")] = None,
    public_key: Annotated[
        str, typer.Option("--public-key", metavar="HEX", help="The server's, got another way (heimdall keys list).")
    ] = "",
) -> None:
    """Get the signed certificate of an erasure, or check one without any server."""
    if bool(operation_id) == (verify is not None):
        msg = "name an erasure, or give --verify"
        raise typer.BadParameter(msg)
    if verify is not None:
        if not public_key:
            msg = "is needed (see heimdall keys list): a certificate proves nothing by the key that stands in itself"
            raise typer.BadParameter(msg, param_hint="--public-key")
        _verify(verify, public_key)
        return
    with link.client() as client:
        answer = client.erasure_certificate(operation_id)
    kept = {"certificate": answer.certificate.decode(), "signature": answer.signature.hex()}
    write_line(json.dumps({**kept, "public_key": answer.public_key.hex()}, ensure_ascii=False))


@_app.command(
    epilog=examples(
        "heimdall privacy export --subject email:alice@example.com --reason 'art. 15 request' > alice.ndjson",
        more=_ARGV,
    )
)
@connected
def export(
    link: Link,
    *,
    subject: Subject,
    reason: Reason,
    reveal_own: Annotated[bool, typer.Option("--reveal", help="Put the subject's values for its tokens.")] = False,
    since: Since = None,
    until: Until = None,
) -> None:
    """Write everything that is held on a subject, one JSON object a line; the last line counts them. Exit code 4 where it says that a part is missing."""
    values = read_subject(subject)
    size, tail = 0, b""
    with link.client() as client:
        for piece in client.export_subject(values, reason=reason, since=since, until=until, reveal=reveal_own):
            sys.stdout.buffer.write(piece)
            size += len(piece)
            tail = (tail + piece)[-_END_BYTES_MAX:]
    sys.stdout.flush()
    note(plural(size, "byte"))
    end = json.loads(tail.strip().rsplit(b"\n", 1)[-1])
    if missing := end.get("missing"):
        warn(f'not whole: {", ".join(missing)}; lines of the kind "missing" say what isn\'t there, and what to do')
        raise typer.Exit(ExitCode.INCOMPLETE)


@_operations.command("list", epilog=examples("heimdall privacy operations list --running"))
@connected
def list_(
    link: Link,
    *,
    running: Annotated[bool, typer.Option("--running", help="Only those that haven't ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    output: Output = TextOutput.TABLE,
) -> None:
    """List operations, the newest first."""
    with link.client() as client:
        operation_view.show(client.operations(running_only=running, limit=limit), output)


OperationId = Annotated[str, typer.Argument(metavar="OPERATION", help="Its id.")]


@_operations.command(epilog=examples("heimdall privacy operations show rotate-dek-1a2b3c4d5e6f -o json"))
@connected
def show(link: Link, *, operation_id: OperationId, output: Output = TextOutput.TABLE) -> None:
    """Show one operation."""
    with link.client() as client:
        operation_view.show([client.operation(operation_id)], output)


@_operations.command(epilog=examples("heimdall privacy operations watch rotate-dek-1a2b3c4d5e6f"))
@connected
def watch(link: Link, *, operation_id: OperationId, output: Output = TextOutput.TABLE) -> None:
    """Follow an operation until it ends. Exit code 1 if it failed or was cancelled."""
    with link.client() as client:
        operation_view.follow(client, client.operation(operation_id), output, wait=True)


@_operations.command(epilog=examples("heimdall privacy operations cancel rotate-dek-1a2b3c4d5e6f"))
@connected
def cancel(link: Link, *, operation_id: OperationId, output: Output = TextOutput.TABLE) -> None:
    """Ask a rotation to stop between two steps. An erasure or a deletion that has begun can't be stopped."""
    with link.client() as client:
        operation_view.show([client.cancel_operation(operation_id)], output)


def read_subject(given: list[str]) -> list[tuple[str, str]]:
    """The (class, value) pairs of `--subject`; `-` stands for the lines of standard input.

    Raises:
        typer.BadParameter: One isn't class:value; the value isn't repeated.
    """
    texts: list[str] = []
    for text in given:
        texts += [line for line in sys.stdin.read().splitlines() if line.strip()] if text == "-" else [text]
    pairs: list[tuple[str, str]] = []
    for number, text in enumerate(texts, 1):
        name, colon, value = text.removeprefix("[").partition(":")
        if not colon or not value.strip() or not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name.strip()):
            msg = f"subject {number} isn't class:value, as in email:alice@example.com"
            raise typer.BadParameter(msg, param_hint="--subject")
        pairs.append((name.strip(), text if text.startswith("[") else value.strip()))
    if not pairs:
        msg = "names nobody"
        raise typer.BadParameter(msg, param_hint="--subject")
    return pairs


def _show_scope(scope: operation_pb2.ErasureScope, output: TextOutput | None) -> None:
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        print_json(to_plain(scope))
        return
    told = (
        f"{plural(scope.vault_value_count, 'value')} in the vault, under {plural(len(scope.tokens), 'token')}; "
        f"{plural(scope.record_count, 'record')} {'keeps' if scope.record_count == 1 else 'keep'} them as pseudonyms; "
        f"{plural(scope.survivor_count, 'value')} of others must be sealed anew"
    )
    if output is None:
        note(told)
    else:
        out().print(told, soft_wrap=True)


def _verify(file: Path, public_key: str) -> None:
    from heimdall_client.certificates import check_certificate

    if not re.fullmatch(r"[0-9A-Fa-f]{64}", public_key):
        msg = "isn't a public key: that has 64 hexadecimal digits, as `heimdall keys list` tells it"
        raise typer.BadParameter(msg, param_hint="--public-key")
    key = bytes.fromhex(public_key)
    try:
        document = check_certificate(file.read_bytes(), key)
    except OSError as error:
        msg = f"{file}: {error.strerror}"
        raise typer.BadParameter(msg, param_hint="--verify") from error
    except ValueError as error:
        warn(str(error))
        raise typer.Exit(ExitCode.FAILED) from error
    write_line(json.dumps(document, ensure_ascii=False))
    note("the signature is right")
