"""What may become of personal data: a table of actions by name.

The rules say where values stand; an action says what is written in their place. An action that needs keys is made by wiring
(`keyed.keyed_actions`) and handed to the protector in a larger table; what it must make durable goes to `Effects`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import pyarrow as pa

from heimdall_server.domain.sealed_values import SealedRun
from heimdall_server.protect.lookalikes import escaped_text
from heimdall_server.protect.partial import partial


@dataclass(slots=True)
class Effects:
    """What protecting one batch did besides the columns."""

    hits: Counter[str] = field(default_factory=Counter)
    """Class to the number of texts acted on."""
    sealed: list[SealedRun] = field(default_factory=list)
    """Values that are new, for the frame of the records that name them."""
    settlers: list[Callable[[], None]] = field(default_factory=list)
    """Called once the frame is durable."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value stood."""

    field: str
    """As a policy names it."""
    row: int
    """Of the record in the batch; -1: the value stands for several records."""
    records: int = 1
    """How many records it stands for."""
    bound: str = ""
    """The field as it can be told of the stored record: without a key in which something may have been replaced. Empty: as `field`."""


@dataclass(frozen=True, slots=True)
class Forms:
    """What is written in place of some values, in their order."""

    texts: Sequence[str] | pa.LargeStringArray
    words: Sequence[str] | pa.LargeStringArray = ()
    """Words by which a value is found, for those that stand outside the body; none: it isn't found."""
    networks: Sequence[str | None] = ()
    """Words by which the network of an address is found, wherever the address stands; None: it has none."""


class Action(Protocol):
    """One way to treat personal data. Stateless or thread-safe."""

    @property
    def rewrites(self) -> bool:
        """False: values of the class aren't even looked for."""
        ...

    @property
    def drops(self) -> bool:
        """True: the whole field goes in which a value is found; `forms` isn't asked."""
        ...

    @property
    def masks(self) -> bool:
        """True: `mask(class)` is written whatever the value is; `forms` isn't asked."""
        ...

    @property
    def alike(self) -> bool:
        """True: equal values of a class become equal texts, so each is asked for once."""
        ...

    @property
    def classes(self) -> frozenset[str] | None:
        """The classes for which it may be chosen; None: all."""
        ...

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """What is written in place of values.

        Args:
            data_class: What they are.
            values: As they were written. Distinct if `alike`.
            origins: Where each stood; empty if `alike`.
            effects: Counts, and what must be durable.
        """
        ...


def mask(data_class: str) -> str:
    """What stands in place of a masked value: `[email]`."""
    return f"[{data_class}]"


@dataclass(frozen=True, slots=True)
class _Plain:
    """An action without a key."""

    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = True
    classes: frozenset[str] | None = None

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The masks."""
        del origins, effects
        return Forms([mask(data_class)] * len(values))


class Partial(_Plain):
    """Leaves what a person needs to recognise a value, never its length: see `partial`."""

    __slots__ = ()

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The partial masks."""
        del origins, effects
        return Forms([escaped_text(partial(data_class, value)) for value in values])


KEEP: Final = _Plain(rewrites=False)
"""Leaves values as they are."""
MASK: Final = _Plain(masks=True)
"""Puts the class's name in place of the value; nothing can be searched or recovered."""
DROP: Final = _Plain(drops=True)
"""Removes the whole field in which a value was found."""

ACTIONS: Final[Mapping[str, Action]] = {"keep": KEEP, "mask": MASK, "partial": Partial(), "drop": DROP}
"""Actions that need no key, by the name that a policy uses."""

KEYED: Final = ("hash", "tokenise", "encrypt", "format_preserving")
"""Names of the actions that need keys."""
