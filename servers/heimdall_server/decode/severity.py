"""Words and numbers of many loggers → OpenTelemetry severity numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays
from heimdall_server.domain.records import SEVERITY_NAMES, Severity

_RANGES: Final = ("trace", "debug", "info", "warn", "error", "fatal")
_LADDER: Final = {10: 1, 20: 5, 30: 9, 40: 13, 50: 17, 60: 21}
"""pino's and bunyan's levels."""
_WORDS: Final[dict[str, int]] = {
    **SEVERITY_NAMES,
    # The data model's short names: INFO2, WARN4.
    **{f"{word}{step}": Severity[word.upper()] + step - 1 for word in _RANGES for step in (1, 2, 3, 4)},
}
_NAMES: Final = pa.array(list(_WORDS), pa.string())
_NUMBERS: Final = np.array([*_WORDS.values(), 0], np.uint8)


def from_words(words: pa.Array) -> npt.NDArray[np.uint8]:
    """Severity numbers of words, case and blanks around them ignored; 0 for a word (or null) that isn't known."""
    index = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(words)), value_set=_NAMES)
    out: npt.NDArray[np.uint8] = _NUMBERS[arrays.int64s(pc.fill_null(index, len(_NAMES)))]
    return out


def from_numbers(numbers: pa.Array, *, ladder: bool) -> npt.NDArray[np.uint8]:
    """Severity numbers of levels written as numbers; 0 for what is on no scale.

    Args:
        numbers: Integers or floats, null allowed.
        ladder: Read 10 and 20 as pino and bunyan do (trace, debug), not as OpenTelemetry's INFO2 and ERROR4.
            30 to 60 have one meaning only.
    """
    value = np.nan_to_num(arrays.float64s(numbers.cast(pa.float64(), safe=False)), posinf=0.0, neginf=0.0)
    known = (value >= 1) & (value <= 24) & (value == np.floor(value))
    out = np.where(known, value, 0).astype(np.uint8)
    for level, number in _LADDER.items():
        if ladder or level > 24:
            out[value == level] = number
    return out
