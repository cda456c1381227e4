"""The aggregates of `stats` as states that grow: each sums up a batch by one expression, and merges that in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from heimdall_server.domain.expression.tree import Aggregate, Function
from heimdall_server.language.sketches import DistinctSketch, QuantileSketch

ROWS: Final = "rows"
"""The column that says how many records of a batch fell into a group."""

Part = Mapping[str, Any]
"""What one batch says about one group: `ROWS`, and the columns of `summaries`."""


class State(ABC):
    """One aggregate of one group."""

    __slots__ = ("column",)

    def __init__(self, column: str) -> None:
        """Begin with nothing; `column` holds the values of a batch, null where a record has none."""
        self.column = column

    @abstractmethod
    def summaries(self) -> list[pl.Expr]:
        """What to know of a batch's values in a group."""

    @abstractmethod
    def merge(self, part: Part) -> None:
        """Take a batch's part in."""

    @abstractmethod
    def value(self) -> float | None:
        """The aggregate; None: no record had a value."""

    @property
    def is_exact(self) -> bool:
        """The value is no estimate."""
        return True


class Rows(State):
    """`count()`."""

    __slots__ = ("_count",)

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self._count = 0

    def summaries(self) -> list[pl.Expr]:
        """Nothing but `ROWS`."""
        return []

    def merge(self, part: Part) -> None:
        """Add the rows."""
        self._count += int(part[ROWS])

    def value(self) -> int:
        """Records."""
        return self._count


class Carriers(Rows):
    """`count(field)`; the column is True where a record carries it."""

    __slots__ = ()

    def summaries(self) -> list[pl.Expr]:
        """How many are True."""
        return [pl.col(self.column).sum().alias(self.column)]

    def merge(self, part: Part) -> None:
        """Add them."""
        self._count += int(part[self.column])


class Distinct(State):
    """`count_distinct(field)`; the column holds hashes."""

    __slots__ = ("_sketch",)

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self._sketch = DistinctSketch()

    def summaries(self) -> list[pl.Expr]:
        """The distinct hashes."""
        return [pl.col(self.column).drop_nulls().unique().implode().alias(self.column)]

    def merge(self, part: Part) -> None:
        """Join the sets."""
        self._sketch.add(np.asarray(part[self.column], np.uint64))

    def value(self) -> int:
        """Distinct values."""
        return self._sketch.count()

    @property
    def is_exact(self) -> bool:
        """Few enough to be held."""
        return self._sketch.is_exact


class Quantile(State):
    """`quantile(field, level)`."""

    __slots__ = ("_level", "_sketch")

    def __init__(self, column: str, level: float) -> None:
        super().__init__(column)
        self._level = level
        self._sketch = QuantileSketch()

    def summaries(self) -> list[pl.Expr]:
        """The values themselves."""
        return [pl.col(self.column).drop_nulls().implode().alias(self.column)]

    def merge(self, part: Part) -> None:
        """Add the values to the digest."""
        self._sketch.add(np.asarray(part[self.column], np.float64))

    def value(self) -> float | None:
        """The quantile."""
        return self._sketch.quantile(self._level) if self._sketch.count else None

    @property
    def is_exact(self) -> bool:
        """Few enough to be held."""
        return self._sketch.is_exact


class Total(State):
    """`sum(field)`, and the sum and count that `avg` needs."""

    __slots__ = ("_count", "_sum")

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self._sum = 0.0
        self._count = 0

    def summaries(self) -> list[pl.Expr]:
        """Sum and count."""
        column = pl.col(self.column)
        return [column.sum().alias(self.column), column.count().alias(f"{self.column}_count")]

    def merge(self, part: Part) -> None:
        """Add both."""
        self._sum += float(part[self.column])
        self._count += int(part[f"{self.column}_count"])

    def value(self) -> float | None:
        """The sum."""
        return self._sum if self._count else None


class Average(Total):
    """`avg(field)`."""

    __slots__ = ()

    def value(self) -> float | None:
        """The mean."""
        return self._sum / self._count if self._count else None


class Least(State):
    """`min(field)`."""

    __slots__ = ("_value",)

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self._value: float | None = None

    def summaries(self) -> list[pl.Expr]:
        """The least value."""
        return [pl.col(self.column).min().alias(self.column)]

    def merge(self, part: Part) -> None:
        """Keep the lesser."""
        found = part[self.column]
        if found is not None:
            self._value = found if self._value is None else min(self._value, found)

    def value(self) -> float | None:
        """The least value."""
        return self._value


class Greatest(Least):
    """`max(field)`."""

    __slots__ = ()

    def summaries(self) -> list[pl.Expr]:
        """The greatest value."""
        return [pl.col(self.column).max().alias(self.column)]

    def merge(self, part: Part) -> None:
        """Keep the greater."""
        found = part[self.column]
        if found is not None:
            self._value = found if self._value is None else max(self._value, found)


_STATES: Final[dict[Function, type[State]]] = {
    Function.COUNT: Carriers,
    Function.COUNT_DISTINCT: Distinct,
    Function.SUM: Total,
    Function.AVG: Average,
    Function.MIN: Least,
    Function.MAX: Greatest,
}


def new_state(aggregate: Aggregate, column: str) -> State:
    """The empty state of an aggregate."""
    if aggregate.field is None:
        return Rows(column)
    if aggregate.function is Function.QUANTILE:
        return Quantile(column, aggregate.quantile)
    return _STATES[aggregate.function](column)
