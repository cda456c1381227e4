"""Text to tree: the one entrance of the query language.

As in `service:api AND severity:>=ERROR "connection reset" | stats count() by host | sort -count | limit 10`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.columns import Columns
from heimdall_server.domain.expression.tree import Query
from heimdall_server.language.filters import FilterParser
from heimdall_server.language.pipes import PipeParser
from heimdall_server.language.scanner import Scanner
from heimdall_server.language.values import Values

QUERY_BYTES_MAX: Final = 64 * 1024
"""Longest query, in UTF-8."""


def parse(text: str, *, now_ns: int, known_fields: Collection[str] = ()) -> Query:
    """Read a query.

    Args:
        text: Lucene query-string syntax, then stages behind `|`. Nothing at all matches every record.
        now_ns: What `now` means in it.
        known_fields: Names of attributes that records are known to carry, if the caller has a catalogue.
            They are never taken for misspelt core fields. With a catalogue, `x:12` of an `x` that isn't in
            it is searched for as text, too.

    Returns:
        A tree that `check_query` accepts.

    Raises:
        QuerySyntaxError: With the column and, where there is one, a suggestion.
    """
    if len(text) > QUERY_BYTES_MAX or len(text.encode("utf-8", "surrogatepass")) > QUERY_BYTES_MAX:
        raise QuerySyntaxError(text[:80], 0, f"a query longer than {QUERY_BYTES_MAX} bytes")
    scanner = Scanner(text)
    bad = next((index for index, c in enumerate(text) if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        scanner.error("a character that no text has", at=bad)
    values = Values(scanner, now_ns)
    known = frozenset(known_fields)
    expression = FilterParser(scanner, values, Columns(), known).parse()
    return Query(expression, PipeParser(scanner, values, known).parse())
