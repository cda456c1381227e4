"""The aggregates of `stats` as states that grow: each takes in what a batch says about one group (`grouping`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

from heimdall_server.domain.expression.tree import Aggregate, Function
from heimdall_server.language.sketches import DistinctSketch, QuantileSketch


class State(ABC):
    """One aggregate of one group."""

    __slots__ = ()

    @abstractmethod
    def merge(self, count: int, part: Any) -> None:  # noqa: ANN401 - each state has its own
        """Take a batch's part in.

        Args:
            count: Records of the batch in the group.
            part: What `Groups.parts` says about the group for this aggregate.
        """

    @abstractmethod
    def value(self) -> float | None:
        """The aggregate; None: no record had a value."""

    @property
    def is_exact(self) -> bool:
        """The value is no estimate."""
        return True


class Rows(State):
    """`count()`; there is no part."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def merge(self, count: int, part: Any) -> None:  # noqa: ANN401, ARG002 # records are all there is
        """Add the records."""
        self._count += count

    def value(self) -> int:
        """Records."""
        return self._count


class Carriers(Rows):
    """`count(field)`; the part is how many records carry it."""

    __slots__ = ()

    def merge(self, count: int, part: int) -> None:  # noqa: ARG002 # not every record counts
        """Add them."""
        self._count += part


class Distinct(State):
    """`count_distinct(field)`; the part holds hashes."""

    __slots__ = ("_sketch",)

    def __init__(self) -> None:
        self._sketch = DistinctSketch()

    def merge(self, count: int, part: Any) -> None:  # noqa: ANN401, ARG002 # an array
        """Join the sets."""
        self._sketch.add(part)

    def value(self) -> int:
        """Distinct values."""
        return self._sketch.count()

    @property
    def is_exact(self) -> bool:
        """Few enough to be held."""
        return self._sketch.is_exact


class Quantile(State):
    """`quantile(field, level)`; the part holds the values."""

    __slots__ = ("_level", "_sketch")

    def __init__(self, level: float) -> None:
        self._level = level
        self._sketch = QuantileSketch()

    def merge(self, count: int, part: Any) -> None:  # noqa: ANN401, ARG002 # an array
        """Add the values to the digest."""
        self._sketch.add(part)

    def value(self) -> float | None:
        """The quantile."""
        return self._sketch.quantile(self._level) if self._sketch.count else None

    @property
    def is_exact(self) -> bool:
        """Few enough to be held."""
        return self._sketch.is_exact


class Total(State):
    """`sum(field)`, and the sum and count that `avg` needs; the part is both."""

    __slots__ = ("_count", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def merge(self, count: int, part: tuple[float, int]) -> None:  # noqa: ARG002 # not every record has a value
        """Add both."""
        self._sum += part[0]
        self._count += part[1]

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
    """`min(field)`; the part is the least value, or None."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: float | None = None

    def merge(self, count: int, part: float | None) -> None:  # noqa: ARG002 # how many doesn't matter
        """Keep the lesser."""
        if part is not None:
            self._value = part if self._value is None else min(self._value, part)

    def value(self) -> float | None:
        """The least value."""
        return self._value


class Greatest(Least):
    """`max(field)`; the part is the greatest value, or None."""

    __slots__ = ()

    def merge(self, count: int, part: float | None) -> None:  # noqa: ARG002 # how many doesn't matter
        """Keep the greater."""
        if part is not None:
            self._value = part if self._value is None else max(self._value, part)


_STATES: Final[dict[Function, type[Carriers | Distinct | Total | Least]]] = {
    Function.COUNT: Carriers,
    Function.COUNT_DISTINCT: Distinct,
    Function.SUM: Total,
    Function.AVG: Average,
    Function.MIN: Least,
    Function.MAX: Greatest,
}


def new_state(aggregate: Aggregate) -> State:
    """The empty state of an aggregate."""
    if aggregate.field is None:
        return Rows()
    if aggregate.function is Function.QUANTILE:
        return Quantile(aggregate.quantile)
    return _STATES[aggregate.function]()
