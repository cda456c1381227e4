"""What a person may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from heimdall_server.domain.expression.fields import ALIASES, CORE_FIELDS

_CLOSE: Final = 0.8
_OWN_NAMES: Final = (*CORE_FIELDS, *ALIASES)


def did_you_mean(name: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str:
    """A hint at the closest candidate; empty if none is close."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return f"did you mean {found[0]!r}?" if found else ""


def misspelt_core_field(name: str, known_fields: Collection[str]) -> str:
    """Tell a misspelt core field from an attribute that nobody has seen yet.

    An attribute may have any name, so only what is one slip away from a core field or an alias is
    doubted: `sevice` and `hosts`, but not `source_ip`, and nothing that is known to exist.

    Returns:
        The hint; empty: take the name for an attribute.
    """
    if len(name) < 4 or name in known_fields or name.startswith(("attributes.", "resource.")):
        return ""
    near = [own for own in _OWN_NAMES if abs(len(own) - len(name)) <= 1]
    close = difflib.get_close_matches(name.lower(), near, n=1, cutoff=_CLOSE)
    if not close:
        return ""
    best = difflib.get_close_matches(name.lower(), [*close, *known_fields], n=1, cutoff=_CLOSE)
    meant = ALIASES.get(best[0], best[0])
    return f"did you mean {meant!r}? write attributes.{name} for an attribute of that name"
