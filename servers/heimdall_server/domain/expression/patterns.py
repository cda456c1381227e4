"""Wildcards, phrases and regexes as RE2, the one engine that every reader of a tree has.

Not here: running them. The predicate and the stores compile the same RE2 text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.expression.literals import ascii_lower

PATTERN_CHARACTERS_MAX: Final = 1024
"""Longest regex or wildcard pattern."""
GROUPS_MAX: Final = 32
"""Named groups of one `extract`."""
_NOT_WORD: Final = r"[\x00-/:-@\[-`{-\x7f]"
_WORD: Final = r"[^\x00-/:-@\[-`{-\x7f]"
_START: Final = rf"(?:\A|{_NOT_WORD})"
_END: Final = rf"(?:\z|{_NOT_WORD})"
_SPECIAL: Final = frozenset("\\.+*?()|[]{}^$")
"""All that needs a backslash. No more than that: `\\<` is a word's edge to some engines."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_GROUP_OPEN: Final = re.compile(r"\(\?P?<([^>=!]*)>")
_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
_EMPTY: Final = pa.array([""])


def escape(text: str) -> str:
    """RE2 (and Rust regex) that matches exactly this text."""
    return "".join(_escape_character(c) for c in text)


def _escape_character(character: str) -> str:
    if ord(character) < 0x20 or ord(character) == 0x7F:
        return f"\\x{ord(character):02x}"
    return "\\" + character if character in _SPECIAL else character


def wildcard_parts(pattern: str) -> list[str]:
    """Cut a wildcard pattern: `"*"`, `"?"`, and literals with a backslash before them."""
    parts: list[str] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if character in "*?":
            if not (character == "*" and parts and parts[-1] == "*"):
                parts.append(character)
        else:
            if character == "\\" and index + 1 < len(pattern):
                index += 1
            parts.append("\\" + pattern[index])
        index += 1
    return parts


def canonical_wildcard(pattern: str) -> str:
    """The same wildcard with a backslash only where one is needed, and no star behind a star."""
    return "".join(part[1:] if len(part) == 2 and part[1] not in "*?\\" else part for part in wildcard_parts(pattern))


def canonical_regex(pattern: str) -> str:
    """The same regex as a query's text has it: no backslash before a slash."""
    return _ESCAPED.sub(lambda found: "/" if found[0] == r"\/" else found[0], pattern)


def wildcard_regex(pattern: str) -> str:
    """RE2 of a wildcard over a whole value."""
    translated = {"*": ".*", "?": "."}
    parts = wildcard_parts(pattern)
    lead, tail = r"\A", r"\z"
    if parts and parts[0] == "*":
        lead = ""
        parts = parts[1:]
    if parts and parts[-1] == "*":
        tail = ""
        parts = parts[:-1]
    return "(?s)" + lead + "".join(translated.get(part) or escape(part[1:]) for part in parts) + tail


def wildcard_words_regex(pattern: str) -> str:
    """RE2 of a wildcard on a TEXT field, for the field's text with ASCII letters lowered."""
    parts = wildcard_parts(ascii_lower(pattern))
    translated = {"*": _WORD + "*", "?": _WORD}
    lead = tail = ""
    if parts and parts[0] == "*":
        parts = parts[1:]
    elif parts and _is_word_part(parts[0]):
        lead = _START
    if parts and parts[-1] == "*":
        parts = parts[:-1]
    elif parts and _is_word_part(parts[-1]):
        tail = _END
    return lead + "".join(translated.get(part) or escape(part[1:]) for part in parts) + tail


def wildcard_runs(pattern: str) -> tuple[str, ...]:
    """Runs of word characters, lowered, that every text matching a wildcard holds inside a word."""
    runs: list[str] = []
    run = ""
    for part in [*wildcard_parts(ascii_lower(pattern)), "*"]:
        if len(part) == 2 and _is_word_part(part):
            run += part[1]
        elif run:
            runs.append(run)
            run = ""
    return tuple(runs)


def _is_word_part(part: str) -> bool:
    return part == "?" or (len(part) == 2 and (ord(part[1]) >= 0x80 or part[1].isalnum()))


def phrase_regex(words: Sequence[str]) -> str:
    """RE2 of consecutive words, for a text with ASCII letters lowered."""
    return _START + f"{_NOT_WORD}+".join(escape(word) for word in words) + _END


def check_regex(pattern: str) -> None:
    """Refuse what RE2 doesn't take.

    Raises:
        ValueError: The message says what is wrong, without the pattern.
    """
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        msg = f"longer than {PATTERN_CHARACTERS_MAX} characters"
        raise ValueError(msg)
    if "\0" in pattern or r"\C" in pattern:
        msg = r"NUL and \C aren't allowed"
        raise ValueError(msg)
    try:
        pc.match_substring_regex(_EMPTY, pattern)
    except pa.ArrowInvalid as error:
        reason = str(error).removeprefix("Invalid regular expression: ").split(": ", 1)[0]
        raise ValueError(reason) from None


def _pieces(pattern: str) -> Iterator[tuple[int, str]]:
    """Walk a regex: where each piece begins, and the piece (an escape, a class, a quotation or a character)."""
    index = 0
    while index < len(pattern):
        start = index
        character = pattern[index]
        if pattern.startswith(r"\Q", index):
            end = pattern.find(r"\E", index + 2)
            index = len(pattern) if end < 0 else end + 2
        elif character == "\\":
            index += 2
        elif character == "[":
            index = _class_end(pattern, index)
        else:
            index += 1
        yield start, pattern[start:index]


def _class_end(pattern: str, start: int) -> int:
    index = start + 1
    if pattern.startswith("^", index):
        index += 1
    if pattern.startswith("]", index):
        index += 1
    while index < len(pattern) and pattern[index] != "]":
        if pattern.startswith("[:", index) and ":]" in pattern[index:]:
            index = pattern.index(":]", index) + 2
        else:
            index += 2 if pattern[index] == "\\" else 1
    return index + 1


def extract_pattern(pattern: str) -> tuple[str, tuple[str, ...]]:
    """Bring the regex of an `extract` to its one form: only named groups capture, written `(?P<name>…)`.

    Returns:
        The pattern, and the names in order: the first is group 1.

    Raises:
        ValueError: Not RE2, no named group, or a name that can't be a column.
    """
    check_regex(pattern)
    pieces: list[str] = []
    names: list[str] = []
    skip_until = 0
    for start, piece in _pieces(pattern):
        if start < skip_until:
            continue
        opening = _GROUP_OPEN.match(pattern, start) if piece == "(" else None
        if opening is not None:
            names.append(opening.group(1))
            pieces.append(f"(?P<{opening.group(1)}>")
            skip_until = opening.end()
        elif piece == "(" and not pattern.startswith("(?", start):
            pieces.append("(?:")
        else:
            pieces.append(piece)
    if not names:
        msg = "it has no named group; write (?P<name>…)"
        raise ValueError(msg)
    if len(names) > GROUPS_MAX:
        msg = f"more than {GROUPS_MAX} groups"
        raise ValueError(msg)
    for name in names:
        if _NAME.fullmatch(name) is None:
            msg = f"group name {name!r} isn't a plain name"
            raise ValueError(msg)
    return "".join(pieces), tuple(names)
