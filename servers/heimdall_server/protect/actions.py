"""What may become of personal data: a table of actions, which later ones join.

An action rewrites columns of values in which a rule found something, and replaces whole values that a name
gives away. A null in what it returns removes the field. An action that needs keys is made by wiring and handed
to the protector in a larger table; what it must make durable goes to `Effects.sidecars`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import polars as pl

from heimdall_server.protect.rules import Rule


@dataclass(slots=True)
class Effects:
    """What protecting one batch did besides the columns."""

    hits: Counter[str] = field(default_factory=Counter)
    """Class to the number of values acted on."""
    sidecars: dict[str, bytes] = field(default_factory=dict)


class Action(Protocol):
    """One way to treat personal data. Stateless or thread-safe."""

    @property
    def rewrites(self) -> bool:
        """False: values of the class aren't even looked for."""
        ...

    def rewrite(self, rule: Rule, values: pl.Series, effects: Effects) -> pl.Series:
        """Treat every match of a rule.

        Args:
            rule: The rule.
            values: String, without nulls; each passes the rule's gate, few may not match at all.
            effects: Counts, and what must be durable.

        Returns:
            The same length; null where the whole field has to go.
        """
        ...

    def replace(self, data_class: str, values: pl.Series, effects: Effects) -> pl.Series:
        """Treat whole values, whatever they hold.

        Args:
            data_class: What their name says they are.
            values: String, without nulls; none is empty.
            effects: Counts, and what must be durable.

        Returns:
            The same length; null where the whole field has to go.
        """
        ...


def mask(data_class: str) -> str:
    """What stands in place of a masked value: `[email]`."""
    return f"[{data_class}]"


@dataclass(frozen=True, slots=True)
class Keep:
    """Leaves values as they are."""

    rewrites: bool = False

    def rewrite(self, rule: Rule, values: pl.Series, effects: Effects) -> pl.Series:
        """The same values."""
        del rule, effects
        return values

    def replace(self, data_class: str, values: pl.Series, effects: Effects) -> pl.Series:
        """The same values."""
        del data_class, effects
        return values


@dataclass(frozen=True, slots=True)
class Mask:
    """Puts the class's name in place of the value; nothing can be searched or recovered."""

    rewrites: bool = True

    def rewrite(self, rule: Rule, values: pl.Series, effects: Effects) -> pl.Series:
        """Mask each match."""
        masked = rule.substitute(values, mask(rule.data_class))
        effects.hits[rule.data_class] += int((masked != values).sum())
        return masked

    def replace(self, data_class: str, values: pl.Series, effects: Effects) -> pl.Series:
        """Mask each value."""
        effects.hits[data_class] += int((values != mask(data_class)).sum())
        return pl.Series(values.name, [mask(data_class)], pl.String).new_from_index(0, len(values))


@dataclass(frozen=True, slots=True)
class Drop:
    """Removes the whole field in which a value was found."""

    rewrites: bool = True

    def rewrite(self, rule: Rule, values: pl.Series, effects: Effects) -> pl.Series:
        """Null where the rule matches."""
        found = rule.substitute(values, mask(rule.data_class)) != values
        effects.hits[rule.data_class] += int(found.sum())
        return values.set(found, None)

    def replace(self, data_class: str, values: pl.Series, effects: Effects) -> pl.Series:
        """Null everywhere."""
        effects.hits[data_class] += len(values)
        return pl.Series(values.name, [None], pl.String).new_from_index(0, len(values))


ACTIONS: Final[Mapping[str, Action]] = {"keep": Keep(), "mask": Mask(), "drop": Drop()}
"""Actions that need no key, by the name that a policy uses."""
