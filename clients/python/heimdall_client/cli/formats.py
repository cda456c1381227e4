"""The options that say how input is read."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class FormatKind(StrEnum):
    """Formats that a file may have."""

    NDJSON = "ndjson"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    SYSLOG = "syslog"
    TEXT = "text"


_PANEL = "Reading"

FormatName = Annotated[
    FormatKind | None,
    typer.Option(
        "--format", "-f", help="How to read it.  \\[default: told from the first bytes]", rich_help_panel=_PANEL
    ),
]
PatternOption = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="NAME|REGEX",
        help="Line pattern of text: a name of the catalogue, or a regex with named groups (?P<time>…).",
        rich_help_panel=_PANEL,
    ),
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format-option",
        metavar="KEY=VALUE",
        help="Of the format, as delimiter=';' for csv; may be repeated.",
        rich_help_panel=_PANEL,
    ),
]


def format_options(
    kind: FormatKind | None, pattern: str | None, options: list[str] | None
) -> tuple[str | None, dict[str, str]]:
    """What the options say together: the format's name and its options.

    Raises:
        BadParameter: They don't fit one another.
    """
    found: dict[str, str] = {}
    for option in options or []:
        key, separator, value = option.partition("=")
        if not separator or not key:
            msg = f"{option!r} isn't KEY=VALUE"
            raise typer.BadParameter(msg, param_hint="--format-option")
        found[key] = value
    if pattern is not None:
        if kind not in (None, FormatKind.TEXT):
            msg = f"a pattern is for text, not for {kind.value}"
            raise typer.BadParameter(msg, param_hint="--pattern")
        kind = FormatKind.TEXT
        if "(?P<" in pattern or "(?<" in pattern:
            found |= {"pattern": "custom", "regex": pattern}
        else:
            found["pattern"] = pattern
    if found and kind is None:
        msg = "options of a format need the format: give --format"
        raise typer.BadParameter(msg, param_hint="--format-option")
    return (None if kind is None else kind.value), found
