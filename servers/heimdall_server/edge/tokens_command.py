"""`heimdall tokens`: make, list and take back the tokens of callers without a certificate. Needs no running server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from heimdall_server.crypto.certificate_files import write_atomically
from heimdall_server.domain.errors import ConfigurationError, InvalidArgumentError
from heimdall_server.domain.identity import SpiffeId, check_trust_domain
from heimdall_server.edge.http import tokens
from heimdall_server.rpc.command_answers import Output, OutputOption, answer, errors_told

app = typer.Typer(
    name="tokens",
    help="Make, list and take back the tokens of callers without a certificate.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEFAULT_FILE: Final = Path(".heimdall/tokens.toml")
DEFAULT_TRUST_DOMAIN: Final = "heimdall.local"
_HEADER: Final = "# Written by `heimdall tokens`. Digests only; a server takes changes up within a second.\n"


class Kind(StrEnum):
    """First part of the caller's name, by which grants tell callers apart."""

    TOKEN = "token"  # noqa: S105 - a word, not a secret
    CLIENT = "client"


File = Annotated[Path, typer.Option("--file", help="The tokens file (http.tokens_file).", dir_okay=False)]
Name = Annotated[str, typer.Argument(help="Name of the token: a-z 0-9 . _ -", show_default=False)]


@app.command()
def issue(
    name: Name,
    file: File = DEFAULT_FILE,
    trust_domain: Annotated[str, typer.Option(help="Trust domain of the caller's name.")] = DEFAULT_TRUST_DOMAIN,
    kind: Annotated[Kind, typer.Option(help="By default a `token` may write, a `client` write and read.")] = Kind.TOKEN,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a token and show it, this once. A token of the same name is replaced.

    What the holder may do is up to the server's configuration (access.grants), by the URI that is shown.

    Example: heimdall tokens issue fluent-bit
    """
    with errors_told():
        if not tokens.NAME.fullmatch(name):
            field = "NAME"
            raise InvalidArgumentError(field, "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
        principal = SpiffeId.parse(str(SpiffeId(check_trust_domain(trust_domain), kind, name)))
        token, digest = tokens.mint()
        made = tokens.Token(name, bytes.fromhex(digest), principal)
        _write(file, [*(one for one in _read(file) if one.name != name), made])
    answer(
        output,
        {"name": name, "token": token, "principal": str(principal), "file": str(file)},
        [token, f"  {principal}, in {file}", "  it isn't kept anywhere: note it down now"],
    )


@app.command("list")
def list_(file: File = DEFAULT_FILE, output: OutputOption = Output.TEXT) -> None:
    """List the tokens' names and holders."""
    with errors_told():
        found = [{"name": one.name, "principal": str(one.principal)} for one in _read(file)]
    answer(output, {"tokens": found}, [f"{one['name']:<24} {one['principal']}" for one in found] or ["no tokens"])


@app.command()
def revoke(name: Name, file: File = DEFAULT_FILE, output: OutputOption = Output.TEXT) -> None:
    """Take a token back. A running server refuses it within a second."""
    with errors_told():
        found = _read(file)
        left = [one for one in found if one.name != name]
        if len(left) == len(found):
            raise ConfigurationError((f"{file}: there is no token {name!r}",))
        _write(file, left)
    answer(output, {"revoked": name}, [f"{name}: taken back"])


def _read(file: Path) -> tuple[tokens.Token, ...]:
    return tokens.read(file) if file.exists() else ()


def _write(file: Path, found: Iterable[tokens.Token]) -> None:
    tables = "".join(
        f'\n[tokens.{json.dumps(one.name)}]\nsha256 = "{one.digest.hex()}"\nprincipal = "{one.principal}"\n'
        for one in sorted(found, key=lambda one: one.name)
    )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(file, (_HEADER + tables).encode(), mode=0o600)
