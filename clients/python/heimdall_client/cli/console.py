"""Where output goes and how values read: consoles, numbers, sizes, times. Rich is loaded at the first use."""

from __future__ import annotations

import datetime as dt
import functools
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH: Final = 100_000
"""What isn't a terminal has no edge: nothing is wrapped or cut."""

_CONTROLS: Final = {
    **{code: 0x2400 + code for code in range(0x20)},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    # Marks that turn the direction of text could make a line read as another one.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}


@functools.cache
def out() -> Console:
    """Standard output, for results."""
    return _console(stderr=False)


@functools.cache
def err() -> Console:
    """Standard error, for what isn't the result: progress, notes, problems."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            """Let the program decide how it ends, instead of Rich."""
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=False, width=width)


def has_colour(console: Console) -> bool:
    """Whether it is a terminal that shows colours, and the user wants them (NO_COLOR)."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def drop_output() -> None:
    """The reader of standard output went away: what is left in the buffers goes nowhere, quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_line(text: str) -> None:
    """A line of a result, as it is."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A remark beside the result."""
    err().print(text, style="dim", soft_wrap=True)


def warn(text: str) -> None:
    """Something the user should see, though it isn't an error."""
    err().print(f"warning: {text}", style="yellow", soft_wrap=True)


def clean(text: str) -> str:
    """Text of a record for a terminal: control characters become visible instead of being obeyed."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def count(number: float) -> str:
    """A number with its thousands apart."""
    return f"{number:,}"


def plural(number: int, one: str, several: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def span(seconds: float) -> str:
    """A span of time as people read it."""
    if seconds < 0.001:
        return "0 s" if seconds <= 0 else f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= length:
            rest = int(seconds % length // part)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError


def instant(value: dt.datetime) -> str:
    """A time as the query language takes it, UTC, in milliseconds."""
    utc = value.astimezone(dt.UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"
