"""What commands share: the connection's options, kinds of output, times; and how a command gets its client.

The connection's options may stand before the command or behind it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec

import typer

from heimdall_client.cli import failures

if TYPE_CHECKING:
    from heimdall_client.client import AsyncClient
    from heimdall_client.config import ClientConfig
    from heimdall_client.sync_client import Client

P = ParamSpec("P")

_PANEL: Final = "Connection"


class TextOutput(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


class RowOutput(StrEnum):
    """How rows are answered."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"


class OrderOption(StrEnum):
    """Order of rows."""

    NEWEST = "newest"
    OLDEST = "oldest"
    JOURNAL = "journal"
    JOURNAL_REVERSED = "journal_reversed"


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """How to reach the server, as the command line says it."""

    address: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    config_file: Path | None = None
    verbose: bool = False

    def over(self, other: Link) -> Link:
        """The same, with what isn't said here taken from `other`."""
        return Link(*(getattr(self, f.name) or getattr(other, f.name) for f in dataclasses.fields(self)))

    def load(self) -> ClientConfig:
        """The connection's configuration: file, environment, options.

        Raises:
            ConfigError: It can't be used.
        """
        from heimdall_client.config import load_config

        return load_config(
            address=self.address,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            config_file=self.config_file,
        )

    def client(self) -> AbstractContextManager[Client]:
        """A blocking client.

        Raises:
            ConfigError: See `load`.
        """
        from heimdall_client.sync_client import Client

        return Client(self.load())

    def async_client(self) -> AsyncClient:
        """An asynchronous client.

        Raises:
            ConfigError: See `load`.
        """
        from heimdall_client.client import AsyncClient

        return AsyncClient(self.load())


Address = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="Server, or several.", rich_help_panel=_PANEL)
]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", metavar="PEM", help="CA of the server.", rich_help_panel=_PANEL)
]
CertFile = Annotated[
    Path | None, typer.Option("--cert-file", metavar="PEM", help="Your certificate.", rich_help_panel=_PANEL)
]
KeyFile = Annotated[Path | None, typer.Option("--key-file", metavar="PEM", help="Its key.", rich_help_panel=_PANEL)]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="TOML",
        help="Where these are kept: .heimdall/client.toml here or above, else ~/.config/heimdall/client.toml.",
        rich_help_panel=_PANEL,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Say more, also about errors: reason, request id.", rich_help_panel=_PANEL),
]

Output = Annotated[TextOutput, typer.Option("--output", "-o", help="How to answer.")]
Rows = Annotated[RowOutput, typer.Option("--output", "-o", help="How to answer; json: one object a line.")]
Datasets = Annotated[
    list[str] | None, typer.Option("--dataset", "-d", metavar="NAME", help="Only this dataset; may be repeated.")
]


def _time(value: str | None) -> str | None:
    """Refuse what isn't a time before anything is sent."""
    from heimdall_client.translate import to_time_ns

    if value is not None:
        try:
            to_time_ns(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return value


Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        "-s",
        metavar="TIME",
        callback=_time,
        help="From this time on: 15m, 2h, 7d, 2024-05-01 (UTC), 2024-05-01T12:00:00Z.",
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", "-u", metavar="TIME", callback=_time, help="Before this time, as --since.")
]


def examples(*lines: str, more: str = "") -> str:
    """Examples at the end of a command's help."""
    # The empty style parts what Rich would take for the name of an emoji: `[enc:email:…]`.
    shown = ["  $ " + re.sub(r":(?=\S*?:)", ":[none][/none]", line.replace("[", r"\[")) for line in lines]
    return "\n".join(["Examples:", *shown, *([f"\n{more}"] if more else [])])


def connected(command: Callable[Concatenate[Link, P], None]) -> Callable[..., None]:
    """Give a command the connection's options: it gets them as a `Link`, and its problems are told."""

    def run(ctx: typer.Context, **arguments: Any) -> None:  # noqa: ANN401 - the command's own
        values = {name: arguments.pop(name) for name in _LINK_PARAMETERS}
        link = Link(**values).over(ctx.obj if isinstance(ctx.obj, Link) else Link())
        with failures.told(verbose=link.verbose):
            command(link, **arguments)  # type: ignore[call-arg]  # Typer passes what the signature below says

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(parameter.replace(kind=keyword) for parameter in own),
        *(inspect.Parameter(n, keyword, annotation=a, default=d) for n, (a, d) in _LINK_PARAMETERS.items()),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what `inspect` looks for first
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    return run


_LINK_PARAMETERS: Final[dict[str, tuple[Any, Any]]] = {
    "address": (Address, None),
    "ca_file": (CaFile, None),
    "cert_file": (CertFile, None),
    "key_file": (KeyFile, None),
    "config_file": (ConfigFile, None),
    "verbose": (Verbose, False),
}
