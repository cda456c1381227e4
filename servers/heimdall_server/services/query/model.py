"""What query is asked and what it answers, as values that wire translation and logic share."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import pyarrow as pa

from heimdall_server.domain.expression.tree import All, Limit, Query, Sort, Stats, TimeRange, Where
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import FieldValue, Order, Plan, Statistics
from heimdall_server.services.query.set_model import NO_SETS, FoundSets

if TYPE_CHECKING:
    # Only a process with the privacy service loads it.
    from heimdall_server.planner.personal_terms import Matched


class Form(enum.StrEnum):
    """How a question came."""

    TEXT = "text"
    SQL = "sql"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, before it is understood. `repr` hides it: it may name personal values."""

    form: Form
    text: str = field(default="", repr=False)
    tree: Query | None = field(default=None, repr=False)

    def spelled(self) -> str:
        """All of it, for digests and nothing else."""
        return f"Question(form={self.form!r}, text={self.text!r}, tree={self.tree!r})"


TokenAfter: TypeAlias = Callable[[int], bytes]
"""The token to go on behind the first so many rows (at least one) of a batch; empty where rows have no order to go on
by. Cheap; thread-safe."""
ANYTHING: Final = Question(Form.TREE, tree=Query(All()))


@dataclass(frozen=True, slots=True)
class Understood:
    """What is asked, as a tree, with its canonical text; tokens stand in place of personal values."""

    query: Query
    canonical_text: str
    matched: Sequence[Matched] = ()
    """The personal values that were named, by their tokens."""
    binding: Query | None = field(default=None, repr=False)
    """What resume tokens are bound to in place of the question, where that names personal values: the same however
    index keys are rotated."""

    @property
    def resumable(self) -> bool:
        """Whether the answer is records in the order of the store, so that a broken stream can go on behind any."""
        seen_limit = False
        for stage in self.query.stages:
            if isinstance(stage, Stats | Sort) or (seen_limit and isinstance(stage, Where)):
                return False
            seen_limit = seen_limit or isinstance(stage, Limit)
        return True

    @property
    def row_limit(self) -> int | None:
        """The query's own `limit`, if it has one; the least, if it has several."""
        return min((stage.count for stage in self.query.stages if isinstance(stage, Limit)), default=None)

    def filled(self, fill: Callable[[Query], Query]) -> Understood:
        """The same with sets of entities in place of what it asks of the graph."""
        return replace(self, query=fill(self.query))

    def limited(self, count: int) -> Query:
        """The query with a limit behind it; for one that is resumable it stands in place of its own ones."""
        stages = self.query.stages
        if self.resumable:
            stages = tuple(stage for stage in stages if not isinstance(stage, Limit))
        return Query(self.query.filter, (*stages, Limit(count)))


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
    token_after: TokenAfter
    """A message may carry a part of the rows, and each part its own token."""


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
    sets: FoundSets = NO_SETS
    """What the graph told."""


@dataclass(frozen=True, slots=True)
class Values:
    """A field's top values."""

    values: Sequence[FieldValue]
    """Most frequent first."""
    record_count: int
    """Records that carry the field."""
    distinct_count: int
    """Its distinct values, estimated where there are many."""
