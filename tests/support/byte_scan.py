"""Looks for values in bytes: in plain and as they may hide (encoded, in UTF-16, in hexadecimal, backwards)."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

CHUNK_BYTES = 4 << 20
PATTERN_BYTES_MIN = 7
"""Shorter ones would be found by chance."""


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
    if len(digits) >= PATTERN_BYTES_MIN and sum(map(str.isalpha, value)) == 0 and "." not in value and ":" not in value:
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
        self._patterns = [pattern.decode("latin-1") for pattern in patterns]
        self._overlap = max(map(len, patterns), default=0)

    def scan(self, place: str, pieces: Iterable[bytes]) -> list[Finding]:
        """Look through the bytes of one place, given in order."""
        found: list[Finding] = []
        kept, offset = b"", 0
        for piece in pieces:
            window = kept + piece
            found += self._window(place, offset - len(kept), window)
            offset += len(piece)
            kept = window[-self._overlap :]
        return list(dict.fromkeys(found))

    def scan_files(self, root: Path) -> list[Finding]:
        """Look through every file below a folder, and through their names."""
        found: list[Finding] = []
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            found += self.scan(f"the name {name}", [name.encode()])
            if path.is_file() and not path.is_symlink():
                found += self.scan(name, _pieces(path))
        return found

    def _window(self, place: str, start: int, window: bytes) -> list[Finding]:
        text = pl.Series([window.decode("latin-1")])
        if not text.str.contains_any(self._patterns).any():
            return []
        return [
            Finding(place, start + at, *self._meanings[index])
            for index, pattern in enumerate(self._patterns)
            if (at := window.find(pattern.encode("latin-1"))) >= 0
        ]


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece
    except FileNotFoundError:
        return  # A running engine removes files as it goes.
