"""`heimdall config`: check and show a server's configuration. Needs no running server."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from heimdall_server import config as configuration
from heimdall_server.domain.errors import ConfigurationError, HeimdallError
from heimdall_server.edge.http.tokens import TokensFile
from heimdall_server.rpc.command_answers import Output, OutputOption
from heimdall_server.rpc.tls_files import TlsFiles

app = typer.Typer(
    name="config",
    help="Check and show a server's configuration.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

EXIT_PROBLEMS: Final = 2


File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="TOML file.  [default: HEIMDALL_CONFIG, else heimdall.toml in the data folder]",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept.  [default: .heimdall]", show_default=False)
]


@app.command()
def check(file: File = None, data_dir: DataDir = None, output: OutputOption = Output.TEXT) -> None:
    """Tell every problem of the configuration at once: file, variables, and the certificates that they name.

    Exit code 2 if there is one.

    Examples: heimdall config check · heimdall config check /etc/heimdall/heimdall.toml
    """
    with _told(output):
        config, files = configuration.load(file, data_dir=data_dir)
        TlsFiles(config.tls)
        if config.http.tokens_file is not None:
            TokensFile(config.http.tokens_file)
    if output is Output.JSON:
        typer.echo(json.dumps({"ok": True, "problems": [], "files": list(files)}, ensure_ascii=False))
    else:
        typer.echo(f"ok: {_origin(files)}")


@app.command()
def show(file: File = None, data_dir: DataDir = None, output: OutputOption = Output.TEXT) -> None:
    """Show the configuration in force as TOML: defaults, profile, file and variables together, secrets redacted.

    Examples: heimdall config show · HEIMDALL_PROFILE=prod heimdall config show
    """
    with _told(output):
        config, files = configuration.load(file, data_dir=data_dir)
    toml = config.to_toml()
    if output is Output.JSON:
        typer.echo(json.dumps({"files": list(files), "config": tomllib.loads(toml)}, ensure_ascii=False, default=str))
    else:
        typer.echo(f"# {_origin(files)}")
        typer.echo(toml, nl=False)


def _origin(files: tuple[str, ...]) -> str:
    return ", ".join(files) if files else "defaults and variables only, there is no file"


@contextmanager
def _told(output: Output) -> Iterator[None]:
    """Turn a configuration's problems into lines and exit code 2."""
    try:
        yield
    except HeimdallError as error:
        problems = error.problems if isinstance(error, ConfigurationError) else (str(error),)
        if output is Output.JSON:
            answer: dict[str, Any] = {"ok": False, "problems": list(problems)}
            typer.echo(json.dumps(answer, ensure_ascii=False))
        else:
            for problem in problems:
                typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(EXIT_PROBLEMS) from error
