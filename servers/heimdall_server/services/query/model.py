"""What query is asked and what it answers, as values that wire translation and logic share."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from heimdall_server.domain.expression.tree import All, Limit, Query, Sort, Stats, TimeRange
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import FieldValue, Order, Plan, Statistics


class Form(enum.StrEnum):
    """How a question came."""

    TEXT = "text"
    SQL = "sql"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, before it is understood."""

    form: Form
    text: str = ""
    tree: Query | None = None


ANYTHING: Final = Question(Form.TREE, tree=Query(All()))


@dataclass(frozen=True, slots=True)
class Understood:
    """What is asked, as a tree, with its canonical text."""

    query: Query
    canonical_text: str

    @property
    def plain_rows(self) -> bool:
        """Whether the answer is records in store order, so that a broken stream can go on."""
        return not any(isinstance(stage, Stats | Sort) for stage in self.query.stages)

    @property
    def row_limit(self) -> int | None:
        """The last `limit` of the query, if it has one."""
        limits = [stage.count for stage in self.query.stages if isinstance(stage, Limit)]
        return min(limits) if limits else None


@dataclass(frozen=True, slots=True)
class SearchIn:
    """What a caller asks."""

    question: Question
    time_range: TimeRange = field(default_factory=TimeRange)
    datasets: Sequence[str] = ()
    order: Order = Order.NEWEST_FIRST
    row_limit: int = 0
    """0: the server's."""
    timeout_s: float | None = None
    consistent: bool = False
    at_least: int = 0
    """Position (of shard 0) to wait for."""
    resume_token: bytes = b""


@dataclass(frozen=True, slots=True)
class Header:
    """Comes first."""

    schema: pa.Schema
    canonical_text: str
    through: Positions


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows."""

    batch: pa.RecordBatch
    resume_token: bytes
    """Empty where rows have no order to go on by."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life."""

    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Missing:
    """A part of the answer that isn't there."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Comes last."""

    statistics: Statistics
    plan: Plan
    missing: Sequence[Missing]
    resume_token: bytes


Answer = Header | Rows | Progress | Done


@dataclass(frozen=True, slots=True)
class Explained:
    """How a query would be answered."""

    understood: Understood
    plan: Plan
    actual: Statistics | None
    visible_through: Positions
    lag_s: float


@dataclass(frozen=True, slots=True)
class Values:
    """A field's top values."""

    values: Sequence[FieldValue]
    """Most frequent first."""
    record_count: int
    """Records that carry the field."""
    distinct_count: int
    """Its distinct values, estimated where there are many."""
