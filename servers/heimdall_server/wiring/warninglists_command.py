"""`heimdall warninglists`: newer lists into the data folder. Needs no running server; one that runs takes them up within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heimdall_server import config as configuration
from heimdall_server.projections.graph.warninglists.files import FOLDER, load
from heimdall_server.projections.graph.warninglists.refresh import refresh as take_in
from heimdall_server.projections.graph.warninglists.sources import SourceLimits
from heimdall_server.rpc.command_answers import Output, OutputOption, answer, errors_told

app = typer.Typer(
    name="warninglists",
    help="Lists of what nearly everybody meets: what is on one is believed less in the graph.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept.  [default: .heimdall]", show_default=False)
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file.  [default: heimdall.toml in the data folder]")
]


@app.command()
def refresh(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder or an archive (zip, wheel, tar) with NAME/list.json in it, as MISP has them, or an https address of one.",
            show_default=False,
        ),
    ],
    names: Annotated[
        list[str] | None, typer.Option("--list", metavar="NAME", help="Take this one, too.  [default: those there are]")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Take every list of the source.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, max=3600, help="Seconds for a download.")] = 60.0,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take newer versions of lists from a source, and new lists if they are asked for.

    They stand beside those that come with the server and win over them. Facts that are made from then on are judged by them, older ones by a rebuild.

    Examples: heimdall warninglists refresh ./misp-warninglists · … refresh lists.zip --list vpn-ipv4
    """
    with errors_told():
        config, _ = configuration.load(config_file, data_dir=data_dir)
        limits = SourceLimits(deadline_s=timeout_s)
        done = take_in(source, config.data_dir / FOLDER, names=names or (), every=every, limits=limits)
    plain = [
        {"name": one.name, "outcome": one.outcome, "entries": one.entry_count, "version": one.version}
        | ({"not_understood": one.left_count} if one.left_count else {})
        for one in done
    ]
    lines = [
        f"{one.name}: {one.outcome}"
        + (f", {one.entry_count:,} entries, version {one.version}" if one.is_taken else "")
        + (f", {one.left_count:,} not understood" if one.left_count else "")
        for one in done
    ]
    answer(output, {"lists": plain}, lines or ["the source has none of the lists that are used here: --list, --all"])
    if done and not any(one.is_taken for one in done):
        raise typer.Exit(1)


@app.command()
def check(config_file: ConfigFile = None, data_dir: DataDir = None, output: OutputOption = Output.TEXT) -> None:
    """Tell which lists are in force for this data folder, and what is wrong with any.

    Example: heimdall warninglists check
    """
    with errors_told():
        config, _ = configuration.load(config_file, data_dir=data_dir)
        loaded = load(config.data_dir / FOLDER, config.graph.warninglists)
    lists = [
        {"name": one.name, "entries": len(one.entries), "version": one.version, "confidence": one.confidence}
        for one in loaded.lists.lists
    ]
    lines = [f"{one['name']}: {one['entries']:,} entries, version {one['version']}" for one in lists]
    lines += [f"problem: {problem}" for problem in loaded.problems]
    answer(output, {"lists": lists, "problems": list(loaded.problems)}, lines)
    if loaded.problems:
        raise typer.Exit(1)
