"""The form of a personal value that has no type: names, numbers of documents, secrets.

Two spellings of one value should get one token, and two values never the same one. So a number of a document loses what people group
digits by, and any other text only what nobody sees.
"""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.characters import INVISIBLE
from heimdall_server.canonical.column import to_arrow

NUMBER_CLASSES: Final = frozenset(
    {"bank_account", "card", "driving_licence", "iban", "national_id", "passport", "phone", "ssn"}
)
"""Classes of numbers that people group as they like, and in which case means nothing. Another class is text, and safe: at worst, two
spellings of its values have two forms."""

_INVISIBLE: Final = "[" + "".join(f"\\x{{{code:x}}}" for code in sorted(INVISIBLE)) + "]"
_BLANKS: Final = r"\s+"
_DASHES: Final = r"[\x{2010}-\x{2015}\x{2043}\x{2212}]"
_SEPARATORS: Final = r"[ ./-]+"


def personal_text(data_class: str, values: pa.StringArray) -> pa.StringArray:
    """Values in NFKC without invisible characters, trimmed, with single blanks; numbers in capitals, without ` `, `-`, `.` and `/`.

    Args:
        data_class: Decides which of both it is.
        values: Without nulls.

    Returns:
        As many, none null. A number that is nothing but separators stays as a text.
    """
    texts = pl.Series(values, dtype=pl.String)
    ascii_only = bool((texts.str.len_bytes() == texts.str.len_chars()).all())
    if not ascii_only:
        texts = texts.str.replace_all(_INVISIBLE, "").str.normalize("NFKC")
    normal = texts.str.replace_all(_BLANKS, " ").str.strip_chars()
    if data_class not in NUMBER_CLASSES:
        return to_arrow(normal)
    bare = normal if ascii_only else normal.str.replace_all(_DASHES, "-")
    bare = bare.str.replace_all(_SEPARATORS, "").str.to_uppercase()
    if not ascii_only:
        # Capitals can be new compositions: normalised again, they stay what they are.
        bare = bare.str.normalize("NFKC")
    return to_arrow(bare.set(bare == "", None).fill_null(normal))
