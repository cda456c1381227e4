"""Looks for values in bytes: in plain and as they may hide (encoded, in UTF-16, in hexadecimal, backwards)."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

CHUNK_BYTES = 4 << 20
GATHERED_BYTES = 32 << 20
EXACT_MAX = 100
"""Where more than so many values are found in one piece, it is told where the piece begins: looking takes longer than finding."""
PATTERN_BYTES_MIN = 7
"""Shorter ones would be found by chance."""
DIGITS_MIN = 9
"""Fewer digits in a row are found by chance where many times and counts stand."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A value that was found."""

    place: str
    offset: int
    label: str
    """Of the value."""
    form: str

    def __str__(self) -> str:
        return f"{self.label} as {self.form} in {self.place} at {self.offset}"


def forms(value: str) -> dict[str, bytes]:
    """The bytes that a value may be written as, by the name of the form."""
    plain = value.encode()
    found = {
        "plain": plain,
        "lower case": value.lower().encode(),
        "upper case": value.upper().encode(),
        "URL-encoded": urllib.parse.quote(value, safe="").encode(),
        "percent-encoded": "".join(f"%{byte:02X}" for byte in plain).encode(),
        "UTF-16LE": value.encode("utf-16-le"),
        "UTF-16BE": value.encode("utf-16-be"),
        "hexadecimal": plain.hex().encode(),
        "backwards": value[::-1].encode(),
        "JSON": value.encode("unicode_escape"),
    }
    for shift in range(3):
        # Characters at both ends depend on what stands beside the value.
        encoded = base64.b64encode(b"\0" * shift + plain)
        start = 0 if not shift else (shift * 8 + 5) // 6
        whole = (shift + len(plain)) * 8 // 6
        found[f"base64 at {shift}"] = encoded[start:whole]
        found[f"URL-safe base64 at {shift}"] = base64.urlsafe_b64encode(b"\0" * shift + plain)[start:whole]
    digits = "".join(character for character in value if character.isdigit())
    if len(digits) >= DIGITS_MIN and sum(map(str.isalpha, value)) == 0 and "." not in value and ":" not in value:
        found["digits"] = digits.encode()
        found["digits backwards"] = digits[::-1].encode()
    return {form: bytes_ for form, bytes_ in found.items() if len(bytes_) >= PATTERN_BYTES_MIN}


class Scanner:
    """Looks for many values at once."""

    def __init__(self, values: Mapping[str, str]) -> None:
        """Take values by label; labels say what they are in a failure, the values themselves never do."""
        patterns: dict[bytes, tuple[str, str]] = {}
        for label, value in values.items():
            for form, bytes_ in forms(value).items():
                patterns.setdefault(bytes_, (label, form))
        self._meanings = list(patterns.values())
        # One character a byte: the search is for text.
        self._patterns = pl.Series([pattern.decode("latin-1") for pattern in patterns], dtype=pl.String)
        self._numbers = {pattern: number for number, pattern in enumerate(self._patterns)}
        self._overlap = max(map(len, patterns), default=0)

    @property
    def meanings(self) -> Sequence[tuple[str, str]]:
        """Everything that can be found: label and form; what several would find alike is called by the first of them."""
        return self._meanings

    def scan(self, place: str, pieces: Iterable[bytes]) -> list[Finding]:
        """Look through the bytes of one place, given in order."""
        return self.scan_places([(place, pieces)])

    def scan_files(self, root: Path) -> list[Finding]:
        """Look through every file below a folder, and through their names."""
        return self.scan_places(_files(root))

    def scan_places(self, places: Iterable[tuple[str, Iterable[bytes]]]) -> list[Finding]:
        """Look through many places; of each the first finding of each value and form.

        The engine is made anew for each call, which takes longer than looking through a small file: so pieces are gathered.
        """
        found: dict[tuple[str, int], int] = {}
        windows: list[tuple[str, int, bytes]] = []
        size = 0
        for window in _windows(places, self._overlap):
            windows.append(window)
            size += len(window[2])
            if size >= GATHERED_BYTES:
                self._look(windows, found)
                windows, size = [], 0
        self._look(windows, found)
        return [Finding(place, at, *self._meanings[index]) for (place, index), at in found.items()]

    def _look(self, windows: Sequence[tuple[str, int, bytes]], found: dict[tuple[str, int], int]) -> None:
        if not windows or not self._meanings:
            return
        patterns = self._patterns.implode()
        texts = pl.Series([window.decode("latin-1") for _, _, window in windows], dtype=pl.String)
        hit = texts.str.contains_any(patterns)
        # Each of them may stand there often: once is enough.
        named = texts.filter(hit).str.extract_many(patterns, overlapping=True).list.unique()
        struck = (window for window, is_hit in zip(windows, hit, strict=True) if is_hit)
        for (place, start, window), names in zip(struck, named, strict=True):
            exact = len(names) <= EXACT_MAX
            for name in names:
                at = window.find(name.encode("latin-1")) if exact else 0
                found.setdefault((place, self._numbers[name]), start + at)


def _windows(places: Iterable[tuple[str, Iterable[bytes]]], overlap: int) -> Iterator[tuple[str, int, bytes]]:
    """Pieces, each with the end of the one before it, and where they begin; what holds only zeros is left out."""
    for place, pieces in places:
        kept, offset = b"", 0
        for piece in pieces:
            window = kept + piece
            if window.strip(b"\0"):
                yield place, offset - len(kept), window
            offset += len(piece)
            kept = window[-overlap:] if overlap else b""


def _files(root: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        yield f"the name {name}", [name.encode()]
        if path.is_file() and not path.is_symlink():
            yield name, _pieces(path)


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece
    except FileNotFoundError:
        return  # A running engine removes files as it goes.
