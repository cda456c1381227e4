"""What else than records is held on a subject, as parts of its export: each gives lines of the document, and says what it can't give."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.personal import TokenName
from heimdall_server.language.instants import instant_text


@dataclass(frozen=True, slots=True)
class Missing:
    """Something of a part isn't in the document."""

    reason: str
    """A sentence for a person: what, and what to do."""


Lines = AsyncGenerator[Mapping[str, Any] | Missing, None]
"""JSON objects with a `kind`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an export."""

    name: str
    """As the document calls it."""
    lines: Callable[[Sequence[TokenName], TimeRange], Lines]
    """What is held on a subject with some tokens. Where its engine fails (StoreError, QueryTimeoutError) the document says that it is missing."""


def time_text(ns: int | None) -> str | None:
    """RFC 3339 in UTC with nanoseconds; None for none."""
    return None if ns is None else instant_text(ns)
