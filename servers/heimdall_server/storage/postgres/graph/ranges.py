"""Ranges of positions that don't touch one another: what is covered, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]
"""First and last, both inclusive."""


def missing(held: Sequence[Range], wanted: Range) -> list[Range]:
    """The parts of a range that aren't covered, in order.

    Args:
        held: In order, none overlapping.
        wanted: The range.
    """
    begin, last = wanted
    found = []
    for first, end in held:
        if end < begin:
            continue
        if first > last:
            break
        if first > begin:
            found.append((begin, first - 1))
        begin = end + 1
    if begin <= last:
        found.append((begin, last))
    return found


def joined(held: Sequence[Range], added: Range) -> list[Range]:
    """What is covered with another range, in order; neighbours become one."""
    found: list[Range] = []
    for first, last in sorted([*held, added]):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
