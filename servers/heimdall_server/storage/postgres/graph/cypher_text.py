"""Looks over Cypher before PostgreSQL sees it: what it returns, and what of it is refused, with the reason and the place.

It isn't what keeps the graph from being written: the role that runs Cypher can't. It says so sooner and better, and keeps out what would cost
the server dearly: AGE answers a pattern of variable length from a copy of the whole graph in memory, and its writing clauses don't expect the columns that
our tables have behind AGE's (ADR 0012).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import QuerySyntaxError

TEXT_LENGTH_MAX: Final = 16_384
COLUMN_COUNT_MAX: Final = 64
_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)"""
    r"""|(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<quoted>`[^`]*`)"""
    r"""|(?P<name>[^\W\d]\w*)"""
    r"""|(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"""
    r"""|(?P<other>.)""",
    re.DOTALL,
)
_WRITES: Final = frozenset({"CREATE", "MERGE", "SET", "DELETE", "DETACH", "REMOVE", "DROP", "FOREACH"})
_CALLS: Final = frozenset({"CALL", "LOAD", "COPY", "YIELD"})
_BEGINS: Final = frozenset({"MATCH", "OPTIONAL", "WITH", "UNWIND", "RETURN"})
_AFTER_ITEMS: Final = frozenset({"ORDER", "SKIP", "LIMIT", "UNION"})
_OPENING: Final = "([{"
_CLOSING: Final = ")]}"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    column: int

    @property
    def word(self) -> str:
        return self.text.upper() if self.kind == "name" else ""


def returned_columns(text: str) -> Sequence[str]:
    """The names of what a query returns, if it may be run.

    Args:
        text: Cypher, one statement.

    Raises:
        QuerySyntaxError: It may not; says why and where.
    """
    if len(text) > TEXT_LENGTH_MAX:
        raise QuerySyntaxError(text[:80], 0, f"a query has at most {TEXT_LENGTH_MAX} characters")
    tokens = [
        _Token(str(found.lastgroup), found[0], found.start())
        for found in _TOKEN.finditer(text)
        if found.lastgroup != "space"
    ]
    if tokens and tokens[-1].text == ";":
        tokens.pop()
    if not tokens or tokens[0].word not in _BEGINS:
        raise QuerySyntaxError(
            text, tokens[0].column if tokens else 0, "a query begins with MATCH, OPTIONAL MATCH, WITH, UNWIND or RETURN"
        )
    _refuse(text, tokens)
    return _columns(text, tokens)


def _refuse(text: str, tokens: Sequence[_Token]) -> None:
    brackets: list[tuple[str, str]] = []
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        is_name_of_something = before in (".", ":") or after == ":"
        problem, suggestion = "", ""
        if (token.kind == "other" and token.text in "'\"`") or (token.text == "/" and after == "*"):
            problem = "it isn't closed"
        elif token.text in ("$", ";", "\0"):
            problem = f"{token.text!r} can't be used here"
            suggestion = "write values into the query, and one query at a time"
        elif token.word in _WRITES and not is_name_of_something:
            problem, suggestion = (
                f"{token.word} writes, and Cypher here only reads",
                "change the graph by merge, split, label and note",
            )
        elif token.word in _CALLS and not is_name_of_something:
            problem = f"{token.word} can't be used here"
        elif token.kind in ("name", "quoted") and before == "." and after == "(":
            problem, suggestion = "only Cypher's own functions can be called", "leave the schema out"
        elif token.text == "*" and brackets and brackets[-1] == ("[", "-"):
            problem = "a pattern of variable length reads the whole graph into memory"
            suggestion = "write each step out, or ask for a traversal or a path"
        if problem:
            raise QuerySyntaxError(text, token.column, problem, suggestion)
        if token.kind == "other" and token.text in _OPENING:
            brackets.append((token.text, before))
        elif token.kind == "other" and token.text in _CLOSING and brackets:
            brackets.pop()


def _columns(text: str, tokens: Sequence[_Token]) -> Sequence[str]:
    begin = max((index for index, token in enumerate(tokens) if token.word == "RETURN"), default=-1)
    if begin < 0:
        raise QuerySyntaxError(text, len(text), "a query ends with RETURN and what it returns")
    items: list[list[_Token]] = [[]]
    depth = 0
    for token in tokens[begin + 1 :]:
        if depth == 0 and token.word in _AFTER_ITEMS:
            break
        if token.kind == "other":
            depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if depth == 0 and token.text == ",":
            items.append([])
        else:
            items[-1].append(token)
    if items[0] and items[0][0].word == "DISTINCT":
        items[0].pop(0)
    for item in items:
        if not item or item[0].text == "*":
            column = item[0].column if item else tokens[begin].column
            raise QuerySyntaxError(text, column, "name what is returned, one by one", "RETURN a, b")
    if len(items) > COLUMN_COUNT_MAX:
        raise QuerySyntaxError(text, tokens[begin].column, f"a query returns at most {COLUMN_COUNT_MAX} columns")
    return [_name(text, item) for item in items]


def _name(text: str, item: Sequence[_Token]) -> str:
    if len(item) > 2 and item[-2].word == "AS":
        return item[-1].text.strip("`")
    return text[item[0].column : item[-1].column + len(item[-1].text)]
