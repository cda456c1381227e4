"""`heimdall version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Final

import typer

from heimdall_client.cli.console import write_line
from heimdall_client.cli.options import Output, TextOutput, examples

DISTRIBUTION: Final = "heimdall-mesh"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=examples("heimdall version", "heimdall version -o json"))(version)


def version(*, output: Output = TextOutput.TABLE) -> None:
    """Show the version of this command.

    `heimdall status` shows the server's.
    """
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json

        print_json({"version": this_version(), "python": platform.python_version()})
    else:
        write_line(f"heimdall {this_version()}")


def this_version() -> str:
    """Of the installed distribution."""
    try:
        return installed_version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def show(value: bool) -> None:  # noqa: FBT001 - Typer's callback
    """For `--version`."""
    if value:
        write_line(f"heimdall {this_version()}")
        raise typer.Exit
