"""What protection wrote before, in texts that come by a second time: a dead letter was protected when it was stored, and is decoded again.

In such texts nobody can have planted a token: all that looked like one was escaped the first time. So tokens are left as they are, and found by
search again, instead of being escaped or taken for values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.personal import CLASS_PATTERN, ENCRYPTED, HASHED, TOKEN, TokenName
from heimdall_server.protect.actions import Effects, Forms, Origin
from heimdall_server.protect.rules import Rule

OURS: Final = "ours"
"""Stands for the class of what is ours; no policy knows it."""
_BARE: Final = "|".join(re.sub(r"\((?!\?)", "(?:", one.pattern) for one in (TOKEN, ENCRYPTED, HASHED))
RULE: Final = Rule(OURS, OURS, rf"\[{CLASS_PATTERN}:", f"(?:{_BARE})")
"""Finds them before any other rule runs, which then sees a mask in their place, as it did the first time."""
WHOLE: Final = rf"^(?:\[{CLASS_PATTERN}\]|{_BARE})$"
"""A value that protection replaced as a whole; a mask counts."""


@dataclass(eq=False, slots=True)
class _Restore:
    """Writes back what was found."""

    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = True
    classes: frozenset[str] | None = None

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The values themselves, and the words of those that are tokens."""
        del data_class, origins, effects
        names = [TokenName.parse(value) for value in values]
        return Forms(values, ["" if name is None else name.word for name in names])


RESTORE: Final = _Restore()
