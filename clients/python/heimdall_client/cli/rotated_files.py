"""Files that a rotation has put beside the one that is written to, and what tells one file from another."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final

from heimdall_client.errors import InputError

SIBLINGS_MAX: Final = 16
"""Rotated files that are looked at, the newest ones."""
COMPRESSED: Final = (".gz", ".zst")
_ROTATED: Final = re.compile(r"[.-]\d[\w.-]*?(?:\.(?:gz|zst))?")


def open_file(path: Path) -> BinaryIO | None:
    """A file that may be missing.

    Raises:
        InputError: It can't be read.
    """
    try:
        if path.is_dir():
            raise InputError(str(path), "it is a directory: name a file")
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error


def rotated_files(path: Path, seen: frozenset[tuple[int, int]]) -> list[Path]:
    """Rotated files of a path, newest first."""
    try:
        names = [name for name in os.listdir(path.parent) if is_rotated_name(path, name)]  # noqa: PTH208 - names only
    except OSError:
        return []  # the folder isn't there yet
    known = set(seen)
    found: list[tuple[float, Path]] = []
    for sibling in [path, *(path.parent / name for name in names)]:
        try:
            facts = sibling.stat()
        except OSError:
            continue
        if sibling == path:
            known.add(identity(facts))
        elif stat.S_ISREG(facts.st_mode) and facts.st_size and identity(facts) not in known:
            found.append((facts.st_mtime, sibling))
    return [sibling for _, sibling in sorted(found, reverse=True)[:SIBLINGS_MAX]]


def is_rotated_name(path: Path, name: str) -> bool:
    """Whether a name is the path's with a number or a date: `app.log.1`, `app.log-20240501.gz`, `app-20240501.log`."""
    if name.startswith(path.name):
        return _ROTATED.fullmatch(name[len(path.name) :]) is not None
    if not path.suffix or not name.startswith(path.stem):
        return False
    for ending in (path.suffix, *(path.suffix + one for one in COMPRESSED)):
        if name.endswith(ending) and _ROTATED.fullmatch(name[len(path.stem) : -len(ending)]):
            return True
    return False


def identity(facts: os.stat_result) -> tuple[int, int]:
    """What stays the same while a file is renamed; it may be given out again once the file is deleted."""
    return facts.st_dev, facts.st_ino
