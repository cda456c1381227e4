"""Tables: ruled and fitted on a terminal, plain aligned columns elsewhere."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heimdall_client.cli.console import clean, instant, out, write_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    console: Console | None = None,
    fold: str = "",
) -> Table:
    """A table of plain values; columns of numbers are set right.

    Args:
        columns: Heads.
        rows: Values, or ready Rich texts.
        console: Where it will be shown; None: standard output.
        fold: Head of the column that gets longer than the others: it is folded, not cut.
    """
    from rich import box
    from rich.table import Table

    console = console or out()
    made = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        pad_edge=False,
        header_style="bold",
        show_edge=False,
    )
    for index, name in enumerate(columns):
        numeric = any(_is_number(row[index]) for row in rows) and all(
            row[index] is None or _is_number(row[index]) for row in rows
        )
        made.add_column(
            clean(name),
            justify="right" if numeric else "left",
            overflow="fold" if name == fold else "ellipsis",
            no_wrap=name != fold,
        )
    for row in rows:
        made.add_row(*(value if hasattr(value, "__rich_measure__") else cell(value) for value in row))
    return made


def show(made: Table) -> None:
    """Print a table; without blanks at the ends of lines where it isn't for eyes."""
    if out().is_terminal:
        out().print(made)
        return
    with out().capture() as captured:
        out().print(made)
    for line in captured.get().splitlines():
        write_line(line.rstrip())


def cell(value: Any) -> str:  # noqa: ANN401 - whatever a column holds
    """A value of an answer as a short text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.6g}"
    if isinstance(value, dt.datetime):
        return instant(value)
    if isinstance(value, Mapping):
        return " ".join(f"{clean(str(key))}={cell(item)}" for key, item in value.items())
    return clean(json.dumps(value, default=str, ensure_ascii=False))


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)
