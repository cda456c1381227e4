"""`heimdall ingest`: files and pipes in, once or followed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from heimdall_client.cli.console import note
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.formats import FormatName, FormatOption, PatternOption, format_options
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples

_DEFAULTS = "What holds for records that don't say it"
STDIN = "-"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    lines = (
        "heimdall ingest /var/log/*.log access.csv logs.ndjson.gz --service api",
        "kubectl logs deploy/api | heimdall ingest - --service api",
        "heimdall ingest --follow /var/log/app.log --timezone Europe/Berlin",
        "heimdall ingest customers.json --dump customers-2024-05 --tlp amber",
        r"heimdall ingest app.log --pattern '(?P<time>\S+) (?P<severity>\w+) (?P<body>.*)'",
    )
    more = "The same file again goes on where it ended: what is there already isn't stored twice."
    app.command(epilog=examples(*lines, more=more))(ingest)


@connected
def ingest(
    link: Link,
    *,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files, gzip and zstd too; - is standard input.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-F", help="Go on with what is written later, through rotation, until Ctrl-C.")
    ] = False,
    service: Annotated[str, typer.Option("--service", help="Service.", rich_help_panel=_DEFAULTS)] = "",
    host: Annotated[str, typer.Option("--host", help="Host.", rich_help_panel=_DEFAULTS)] = "",
    timezone: Annotated[
        str,
        typer.Option(
            "--timezone",
            metavar="ZONE",
            help="Of stamps without one, as Europe/Berlin.  \\[default: UTC]",
            rich_help_panel=_DEFAULTS,
            show_default=False,
        ),
    ] = "",
    tlp: Annotated[
        str,
        typer.Option("--tlp", help="clear, green, amber, amber+strict or red.", rich_help_panel=_DEFAULTS),
    ] = "",
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME",
            help="Where they go.  \\[default: logs; dumps for a dump]",
            rich_help_panel=_DEFAULTS,
            show_default=False,
        ),
    ] = "",
    dump: Annotated[
        str | None,
        typer.Option(
            "--dump",
            metavar="NAME",
            help="The file is a data dump: hashed, taken in once, rows numbered.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option("--source", metavar="ID", help="Name of the source.  \\[default: machine, path and first lines]"),
    ] = "",
    format_: FormatName = None,
    pattern: PatternOption = None,
    format_option: FormatOption = None,
    output: Output = TextOutput.TABLE,
) -> None:
    """Take files in, once or followed.

    What is acknowledged is durable; what can't be decoded becomes a dead letter.
    """
    _check(files, follow=follow, dump=dump, source=source)
    name, options = format_options(format_, pattern, format_option)
    # Here and not above: they load gRPC and Arrow.
    from heimdall_client.cli import ingest_files, ingest_follow
    from heimdall_client.ingest_calls import SourceOptions

    defaults: SourceOptions = {
        "format": name,
        "format_options": options,
        "service": service,
        "host": host,
        "time_zone": timezone,
        "dataset": dataset,
        "tlp": tlp,
    }
    if follow:
        code = asyncio.run(ingest_follow.run(link, [Path(name).absolute() for name in files], defaults, output))
        raise typer.Exit(code)
    if dump:
        defaults["dump"] = dump
    job = ingest_files.IngestJob(link, files, defaults, source, output)
    try:
        code = asyncio.run(job.run())
    except KeyboardInterrupt:
        job.show()
        note("interrupted: what was acknowledged stays; the same command goes on from there")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    raise typer.Exit(code)


def _check(files: list[str], *, follow: bool, dump: str | None, source: str) -> None:
    """Refuse what can't go together, before anything is sent."""
    problem = ""
    if dump == "":
        problem = "--dump has no name: it would be taken in as logs"
    elif follow and STDIN in files:
        problem = "--follow takes files; standard input is read to its end anyway"
    elif follow and (dump or source):
        problem = "--follow can't go with --dump or --source: each rotated file is a source of its own"
    elif len(files) > 1 and (dump or source):
        problem = "--dump and --source name one file"
    elif dump and STDIN in files:
        problem = "a dump is read twice, first to hash it: save it as a file"
    elif len(set(files)) < len(files):
        problem = "a file is named twice"
    if problem:
        raise typer.BadParameter(problem)
