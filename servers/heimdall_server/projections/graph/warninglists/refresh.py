"""New versions of lists into the data folder. Only ever when somebody asks for it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.warninglists import NAME, Warninglist
from heimdall_server.projections.graph.warninglists.files import keep, kept, packaged
from heimdall_server.projections.graph.warninglists.misp import from_misp
from heimdall_server.projections.graph.warninglists.sources import SourceLimits, read_lists

UNCHANGED: Final = "unchanged"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What became of one list."""

    name: str
    outcome: str
    """`new`, `updated`, `unchanged`, or `not taken: …`."""
    entry_count: int = 0
    version: str = ""
    left_count: int = 0
    """Entries that aren't understood."""

    @property
    def is_taken(self) -> bool:
        """Whether it is in the folder now."""
        return not self.outcome.startswith("not taken")


def refresh(
    source: str, folder: Path, *, names: Collection[str] = (), every: bool = False, limits: SourceLimits | None = None
) -> list[Refreshed]:
    """Take lists in.

    Args:
        source: As `read_lists`.
        folder: Where they are kept.
        names: Which, beside those that we have already.
        every: All that there are.
        limits: Bounds of reading.

    Returns:
        What became of each list of the source that was wanted, by name; one that can't be used leaves the older one as it is.

    Raises:
        InvalidArgumentError: The source is none, goes beyond a bound, or lacks a list that was named.
        StoreError: It can't be had.
        OSError: The folder can't be written.
    """
    known = {one.name: one for one in (*packaged(), *kept(folder)[0])}
    wanted = {*known, *names}
    found: dict[str, Refreshed] = {}
    for name, content in read_lists(source, limits):
        if every or name in wanted:
            found[name] = _taken(name, content, known.get(name), folder)
    if missing := sorted(set(names) - set(found)):
        raise InvalidArgumentError("list", f"the source has no list {', '.join(missing)}")
    return [found[name] for name in sorted(found)]


def _taken(name: str, content: bytes, known: Warninglist | None, folder: Path) -> Refreshed:
    if NAME.fullmatch(name) is None:
        return Refreshed(name, f"not taken: a list's name is {NAME.pattern}")
    try:
        one, left = from_misp(name, json.loads(content), known=known)
    except (ValueError, RecursionError) as error:
        return Refreshed(name, f"not taken: {error}")
    if one == known:
        return Refreshed(name, UNCHANGED, len(one.entries), one.version, left)
    keep(folder, one)
    return Refreshed(name, "new" if known is None else "updated", len(one.entries), one.version, left)
