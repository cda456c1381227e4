"""What Cypher answers, as JSON: AGE's `agtype` is JSON with types behind vertices, edges, paths and decimal numbers, and with numbers that JSON hasn't.

Source: AGE 1.7, `src/backend/utils/adt/agtype.c` (`agtype_to_cstring`, `escape_agtype`).
"""

from __future__ import annotations

import re
from typing import Final

# A text comes first: what stands in it is nobody's type.
_OTHER: Final = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")|::[a-z]+|(?P<number>-?(?:NaN|Infinity))', re.DOTALL)


def json_of(agtype: str) -> str:
    """A value as AGE writes it, as JSON.

    Args:
        agtype: `{…}::vertex`, `{…}::edge`, `[…]::path`, `1.5::numeric`, or JSON.

    Returns:
        The same without types. `NaN` and both infinities become texts.
    """
    return _OTHER.sub(_written, agtype)


def _written(found: re.Match[str]) -> str:
    if found["number"]:
        return f'"{found["number"]}"'
    return found["text"] or ""
