"""The program: global options, the list of commands, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from heimdall_client.cli import (
    admin,
    audit,
    context,
    datasets,
    dead_letters,
    delete,
    explain,
    fields,
    graph,
    ingest,
    keys,
    plugins,
    privacy,
    query,
    samples,
    status,
    version,
    watch,
)
from heimdall_client.cli.console import drop_output, err
from heimdall_client.cli.exits import MEANINGS, ExitCode
from heimdall_client.cli.options import (
    Address,
    CaFile,
    CertFile,
    ConfigFile,
    KeyFile,
    Link,
    Verbose,
    examples,
)

_EPILOG = "\n".join(
    [
        examples(
            "heimdall ingest /var/log/*.log --service api",
            "heimdall query 'severity:>=ERROR | stats count() by service | sort -count' --since 1h",
            "heimdall watch 'severity:>=WARN' --last 20",
        ),
        "",
        "Exit codes:",
        *(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()),
    ]
)

_OUTPUT_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What writing fails with where the place for the output is full or broken."""

app = typer.Typer(
    name="heimdall",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(epilog=_EPILOG, no_args_is_help=True)
def root(
    ctx: typer.Context,
    *,
    address: Address = None,
    ca_file: CaFile = None,
    cert_file: CertFile = None,
    key_file: KeyFile = None,
    config_file: ConfigFile = None,
    verbose: Verbose = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=version.show, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Heimdall: take logs and data dumps in, search them, follow them live."""
    ctx.obj = Link(address, ca_file, cert_file, key_file, config_file, verbose)


_COMMANDS = (
    *(ingest, query, watch, context, explain, fields, status, datasets, dead_letters, samples),
    *(graph, privacy, delete, keys, audit, admin, version),
)
for _command in _COMMANDS:
    _command.add_to(app)


def command() -> TyperGroup:
    """The whole command line, with the groups of other packages."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)  # noqa: S101 - an app with several commands is a group
    plugins.join(group)
    return group


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None: those of the process.

    Returns:
        The exit code. Nothing that a user can cause ends in a traceback.
    """
    try:
        try:
            command().main(arguments, prog_name="heimdall")
        except SystemExit as end:
            sys.stdout.flush()
            return end.code if isinstance(end.code, int) else ExitCode.OK
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
    except BrokenPipeError:
        drop_output()
        return ExitCode.PIPE_CLOSED
    except OSError as error:
        # A file that a command opens has a name, and the SDK tells of those: standard output has none.
        if error.filename is not None or error.errno not in _OUTPUT_ERRNOS:
            raise
        drop_output()
        with contextlib.suppress(OSError):
            err().print(f"error: can't write the output: {error.strerror}", style="red", soft_wrap=True)
        return ExitCode.FAILED
    return ExitCode.OK
