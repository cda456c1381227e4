r"""What a rule is: a pattern for one class of personal data, and how it is applied to a column.

A pattern is written once and means the same to two engines: Rust's regex (polars, whole columns, no GIL)
and Python's `re` (value by value, where a check needs code). So it keeps to what both know: no look-around,
no back-reference, no `\s`, `\w`, `\d` (their Unicode tables differ), and `\b` and `(?i:` are read as ASCII.

The order of the rules and each pattern's edges keep masking idempotent: no mask holds text that a rule
matches, and no match ends in the middle of a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import polars as pl

Check = Callable[[re.Match[str]], int]
"""Says where the personal value in a match ends (index in the whole text); 0 or less: there is none."""

ColumnCheck = Callable[[pl.Series, str], pl.Series]
"""For values and the pattern in polars' form, says of which values `check` would accept every match whole.
May say no too often."""


@dataclass(frozen=True)
class Rule:
    """One way in which values of a class are written."""

    name: str
    """Unique; for tests and messages."""
    data_class: str
    """What a policy calls it, and what the mask says."""
    gate: str
    """Matches, unanchored, in every text in which `pattern` matches; far cheaper. No `\\b`, `^` or `$`:
    a text that is part of a longer one must still be found."""
    pattern: str
    """Its groups, if any, are kept in front of the mask; all else of a match is the personal value."""
    opening: str = ""
    """Written between the kept groups and the mask."""
    closing: str = ""
    """Written behind the mask."""
    check: Check | None = None
    """A test that a regex can't make. Runs under the GIL, so on few values."""
    column_check: ColumnCheck | None = None
    """With `check`: finds, without the GIL, values that need no further test. None: all need it."""
    group: str = ""
    """Rules whose gates are seldom passed share a group: their gates are tried where any of them is passed."""

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern for Python."""
        return re.compile(self.pattern, re.ASCII)

    @cached_property
    def column_pattern(self) -> str:
        """The pattern for polars."""
        return column_form(self.pattern)

    @cached_property
    def _kept(self) -> str:
        return "".join(f"${{{group}}}" for group in range(1, self.compiled.groups + 1))

    def substitute(self, values: pl.Series, replacement: str) -> pl.Series:
        """Replace every match in a column.

        Args:
            values: String, without nulls.
            replacement: Text without `$`.

        Returns:
            The same length and order.
        """
        if self.check is None:
            return self._replace_all(values, replacement)
        if self.column_check is None:
            return self._replace_each(values, replacement)
        sure = self.column_check(values, self.column_pattern)
        replaced = self._replace_all(values, replacement)
        unsure = (~sure).arg_true()
        if len(unsure):
            replaced = replaced.scatter(unsure, self._replace_each(values.gather(unsure), replacement))
        return replaced

    def substitute_text(self, text: str, replacement: str) -> str:
        """Replace every match in one text: the meaning of `substitute`."""
        parts: list[str] = []
        copied = start = 0
        while (match := self.compiled.search(text, start)) is not None:
            end = match.end() if self.check is None else self.check(match)
            if end <= match.start():
                start = match.start() + 1
                continue
            kept = "".join(group or "" for group in match.groups())
            parts += (text[copied : match.start()], kept, self.opening, replacement, self.closing)
            copied = start = end
        return text if not parts else "".join((*parts, text[copied:]))

    def _replace_each(self, values: pl.Series, replacement: str) -> pl.Series:
        return pl.Series(values.name, [self.substitute_text(value, replacement) for value in values], pl.String)

    def _replace_all(self, values: pl.Series, replacement: str) -> pl.Series:
        return values.str.replace_all(self.column_pattern, f"{self._kept}{self.opening}{replacement}{self.closing}")


def column_form(pattern: str) -> str:
    r"""A pattern in the form that polars takes: `\b` and `(?i:` made ASCII, as `re.ASCII` does."""
    return pattern.replace(r"\b", r"(?-u:\b)").replace("(?i:", "(?i-u:")


def unless(doubt: str) -> ColumnCheck:
    """A column check by a regex: no match in a value is in doubt unless this is found in it."""

    def sure(values: pl.Series, pattern: str) -> pl.Series:
        del pattern
        return ~values.str.contains(column_form(doubt))

    return sure
