"""Statements and plans without what they were asked with, so that they may be logged.

The program's own statements have their values beside them, but not all: numbers stand in some, and Cypher is text that a person wrote. So literals,
comments and lists of them go; of Cypher, only words that belong to the language or to the graph's model stay, since anything else may be a name that
somebody chose after what he looks for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS

STATEMENT_LENGTH_MAX: Final = 4_000
PLAN_LENGTH_MAX: Final = 16_000
_DEPTH_MAX: Final = 40
_TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s+|--[^\n]*|/\*.*?\*/)+)"""
    r"""|(?P<dollars>\$(?P<tag>[A-Za-z_]\w*|)\$(?P<body>.*?)\$(?P=tag)\$)"""
    r"""|(?P<escaped>\b[eE]'(?:[^'\\]|''|\\.)*')"""
    r"""|(?P<string>(?:\b[bBxXnN])?'(?:[^']|'')*')"""
    r"""|(?P<quoted>"(?:[^"]|"")*")"""
    r"""|(?P<name>[^\W\d][\w$]*)"""
    r"""|(?P<parameter>\$\d+|%s)"""
    r"""|(?P<number>\d[\w.]*)"""
    r"""|(?P<other>.)""",
    re.DOTALL,
)
_CYPHER_TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s+|//[^\n]*|/\*.*?\*/)+)"""
    r"""|(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|\d[\w.]*)"""
    r"""|(?P<name>[^\W\d]\w*)"""
    r"""|(?P<other>.)""",
    re.DOTALL,
)
_LISTS: Final = re.compile(r"\?(?:\s*,\s*\?)+")
_SPACE: Final = re.compile(r"\s+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KEYWORDS: Final = _words(
    "MATCH OPTIONAL WHERE WITH UNWIND RETURN DISTINCT ORDER BY SKIP LIMIT UNION ALL AS AND OR XOR NOT IN IS NULL TRUE FALSE ASC ASCENDING DESC "
    "DESCENDING CASE WHEN THEN ELSE END STARTS ENDS CONTAINS EXISTS"
)
_CALLS: Final = _words(
    "count collect sum avg min max id type label labels properties keys nodes relationships length size head last range coalesce toString toInteger "
    "toFloat toUpper toLower substring split trim startNode endNode"
)
_MODEL: Final = frozenset({*map(str, VERTEX_KINDS), *map(str, EDGE_KINDS), "type", "value", "day", "relation"})
_STRUCTURE: Final = frozenset(
    {
        *("Plan", "Plans", "Node Type", "Parent Relationship", "Subplan Name", "Join Type", "Strategy", "Partial Mode", "Operation", "Command"),
        *("Scan Direction", "Relation Name", "Schema", "Index Name", "CTE Name", "Startup Cost", "Total Cost", "Plan Rows", "Plan Width"),
        *("Parallel Aware", "Async Capable", "Inner Unique", "Planned Partitions", "Workers Planned", "Disabled", "Cache Mode"),
    }
)  # fmt: skip
"""Keys of a plan whose values are PostgreSQL's own words, numbers, and names of ours."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A statement without values."""

    text: str
    fingerprint: str
    """Of the text; 16 hexadecimal digits."""
    is_cypher: bool = False


def shape_of(statement: str) -> Shape:
    """The shape of a statement. About 1 µs a token, so it is made of slow ones only."""
    is_cypher = False

    def replaced(kind: str, found: re.Match[str]) -> str:
        nonlocal is_cypher
        if kind == "dollars" and _follows_cypher(statement, found.start()):
            is_cypher = True
            return f"$${_cypher_shape(found['body'])}$$"
        return {"space": " ", "dollars": "?", "escaped": "?", "string": "?", "number": "?"}.get(kind, found[0])

    text = _LISTS.sub("?", _without_values(_TOKEN, statement, replaced))
    text = _SPACE.sub(" ", text).strip()
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Shape(text[:STATEMENT_LENGTH_MAX], fingerprint, is_cypher)


def plan_without_values(plan: Any, *, is_cypher: bool = False) -> str:  # noqa: ANN401 - JSON
    """A plan as `EXPLAIN (FORMAT JSON)` gives it, without constants, as JSON.

    Args:
        plan: The decoded JSON.
        is_cypher: Conditions and aliases are left out: they name what people named.
    """
    text = json.dumps(_plain(plan, 0, is_cypher=is_cypher), separators=(",", ":"))
    return text if len(text) <= PLAN_LENGTH_MAX else ""


def _plain(part: Any, depth: int, *, is_cypher: bool) -> Any:  # noqa: ANN401 - JSON
    if depth > _DEPTH_MAX:
        return None
    if isinstance(part, Mapping):
        kept: dict[str, Any] = {}
        for key, value in part.items():
            if key in _STRUCTURE:
                kept[key] = _plain(value, depth + 1, is_cypher=is_cypher)
            elif not is_cypher and isinstance(value, str):
                kept[key] = shape_of(value).text
            elif not is_cypher and isinstance(value, list) and all(isinstance(one, str) for one in value):
                kept[key] = [shape_of(one).text for one in value]
        return kept
    if isinstance(part, list):
        return [_plain(one, depth + 1, is_cypher=is_cypher) for one in part]
    return part if isinstance(part, str | int | float | bool) else None


def _follows_cypher(statement: str, place: int) -> bool:
    return "cypher(" in statement[max(0, place - 80) : place]


def _cypher_shape(text: str) -> str:
    names: dict[str, str] = {}

    def replaced(kind: str, found: re.Match[str]) -> str:
        word = found[0]
        if kind == "space":
            return " "
        if kind == "value":
            return "?"
        if kind != "name" or word.upper() in _KEYWORDS or word in _MODEL:
            return word
        if word in _CALLS and text[found.end() : found.end() + 1] == "(":
            return word
        return names.setdefault(word, f"n{len(names) + 1}")

    return _SPACE.sub(" ", _LISTS.sub("?", _without_values(_CYPHER_TOKEN, text, replaced))).strip()


def _without_values(pattern: re.Pattern[str], text: str, replaced: Callable[[str, re.Match[str]], str]) -> str:
    parts: list[str] = []
    for found in pattern.finditer(text):
        kind = str(found.lastgroup)
        if kind == "other" and found[0] in "'\"`":  # a quote that nothing closes: what follows may be a value
            parts.append("…")
            break
        parts.append(replaced(kind, found))
    return "".join(parts)
