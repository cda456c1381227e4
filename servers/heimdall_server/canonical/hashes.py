"""File hashes, told apart by their length and by what the field they come from is called.

Digests in lower-case hexadecimal digits (FIPS 180-4, FIPS 202, RFC 1321). Fuzzy hashes keep their own writing: ssdeep is case-sensitive
base64, TLSH is upper case behind `T1` (TLSH 4.0). An imphash is an MD5 over imports, and only its field tells it from a file's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.characters import plain
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Exact, Refused, Sure, canonicalise

DIGITS: Final[Mapping[str, int]] = {
    "md5": 32,
    "imphash": 32,
    "sha1": 40,
    "sha224": 56,
    "sha512_224": 56,
    "sha3_224": 56,
    "sha256": 64,
    "sha512_256": 64,
    "sha3_256": 64,
    "sha384": 96,
    "sha3_384": 96,
    "sha512": 128,
    "sha3_512": 128,
}
"""Hexadecimal digits of each digest."""
HASH_TYPES: Final = (*DIGITS, "ssdeep", "tlsh")
INPUT_CHARACTERS_MAX: Final = 1024
AMBIGUOUS_CONFIDENCE: Final = 0.9
"""Of a hash whose algorithm only its length tells."""

_BY_LENGTH: Final = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
_HEXADECIMAL: Final = re.compile(r"[0-9A-Fa-f]+", re.ASCII)
_LABELLED: Final = re.compile(r"([A-Za-z][A-Za-z0-9/_-]{1,11})\s*[:=]\s*(.+)", re.ASCII | re.DOTALL)
_NAME_IN_CONTEXT: Final = re.compile(
    r"(?<![a-z0-9])(?:(imp[-_ ]?hash)|(ssdeep)|(tlsh)|(md5)|sha[-_]?(3|512)[-_/](224|256|384|512)|sha[-_]?(1|224|256|384|512))"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
# 64 characters of the first and of the second part; FuzzyHashInput of ssdeep 2.14 makes 64 and 32.
_SSDEEP: Final = re.compile(r"([0-9]{1,10}):([A-Za-z0-9+/]{0,64}):([A-Za-z0-9+/]{0,64})(,\".*\")?", re.ASCII)
_TLSH: Final = re.compile(
    r"(T1|t1)?((?:[0-9A-Fa-f]{2}){35}|(?:[0-9A-Fa-f]{2}){37}|(?:[0-9A-Fa-f]{2}){67}|(?:[0-9A-Fa-f]{2}){69})", re.ASCII
)
_SSDEEP_BLOCK_MIN: Final = 3

_TOO_LONG: Final = Refused("it is too long for a hash")
_NOT_HEXADECIMAL: Final = Refused("it is not written in hexadecimal digits")
_WRONG_LENGTH: Final = Refused("it doesn't have the digits of this hash")
_UNKNOWN_LENGTH: Final = Refused("no hash has as many digits")
_OTHER_LABEL: Final = Refused("it says that it is another hash")
_NOT_SSDEEP: Final = Refused("it is not block size, hash and hash of ssdeep")
_NOT_TLSH: Final = Refused("it is not a TLSH hash")


def digest(values: pa.StringArray, algorithm: str) -> CanonicalColumn:
    """Hashes that are known to be of one algorithm (FIPS 180-4, FIPS 202, RFC 1321, ssdeep, TLSH), without a label.

    Args:
        values: With or without a label such as `sha256:`.
        algorithm: One of `HASH_TYPES`.
    """
    return canonicalise(values, rule_of(algorithm), _plain_digest(algorithm) if algorithm in DIGITS else None)


def file_hash(values: pa.StringArray, *, context: str = "") -> CanonicalColumn:
    """Hashes of any algorithm as `<algorithm>:<hash>`.

    Args:
        values: With or without a label. A label is believed if the length allows it.
        context: The name of the field they come from, which tells what the length can't: an imphash from an MD5, SHA-3 from SHA-2.
    """
    return canonicalise(
        values, functools.partial(read_hash, context=context), functools.partial(_plain_hash, context=context)
    )


def algorithm_in(text: str) -> str:
    """The algorithm that a field's name or a label speaks of, one of `HASH_TYPES`; "" if none."""
    found = _NAME_IN_CONTEXT.search(text)
    if found is None:
        return ""
    imphash, ssdeep, tlsh, md5, family, bits, sha = found.groups()
    if family:
        name = f"sha{family}_{bits}"
        return name if name in DIGITS else ""
    if sha:
        return f"sha{sha}"
    return next(
        name
        for name, hit in zip(("imphash", "ssdeep", "tlsh", "md5"), (imphash, ssdeep, tlsh, md5), strict=True)
        if hit
    )


@functools.cache
def rule_of(algorithm: str) -> Exact:
    """The rule of `digest` for one value."""

    def read(text: str) -> Canonical | Refused:
        if len(text) > INPUT_CHARACTERS_MAX:
            return _TOO_LONG
        value, changes = plain(text)
        label, bare = _unlabelled(value)
        if bare != value:
            if label != algorithm:
                return _OTHER_LABEL
            changes |= Change.LABEL
        return _written(algorithm, bare, changes)

    return read


def read_hash(text: str, context: str = "") -> Canonical | Refused:
    """The rule of `file_hash` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain(text)
    label, bare = _unlabelled(value)
    algorithm, confidence = label or _algorithm(bare, algorithm_in(context)), 1.0
    if not algorithm:
        return _UNKNOWN_LENGTH if _HEXADECIMAL.fullmatch(bare) else _NOT_HEXADECIMAL
    if not label and algorithm in DIGITS and algorithm_in(context) != algorithm:
        confidence = AMBIGUOUS_CONFIDENCE
    found = _written(algorithm, bare, changes)
    if isinstance(found, Refused):
        return found
    canonical = f"{algorithm}:{found.value}"
    relabelled = Change.LABEL if label and not value.startswith(f"{algorithm}:") else Change.NONE
    return Canonical(canonical, found.changes | relabelled, confidence)


def _unlabelled(value: str) -> tuple[str, str]:
    labelled = _LABELLED.fullmatch(value)
    if labelled is None:
        return "", value
    name = algorithm_in(labelled[1])
    return (name, labelled[2].strip()) if name else ("", value)


def _algorithm(bare: str, hinted: str) -> str:
    if _SSDEEP.fullmatch(bare):
        return "ssdeep"
    if _TLSH.fullmatch(bare):
        return "tlsh"
    if not _HEXADECIMAL.fullmatch(bare):
        return ""
    return hinted if DIGITS.get(hinted) == len(bare) else _BY_LENGTH.get(len(bare), "")


def _written(algorithm: str, bare: str, changes: Change) -> Canonical | Refused:
    if algorithm == "ssdeep":
        return _ssdeep(bare, changes)
    if algorithm == "tlsh":
        return _tlsh(bare, changes)
    if not _HEXADECIMAL.fullmatch(bare):
        return _NOT_HEXADECIMAL
    if len(bare) != DIGITS[algorithm]:
        return _WRONG_LENGTH
    lowered = bare.lower()
    return Canonical(lowered, changes if lowered == bare else changes | Change.CASE)


def _ssdeep(bare: str, changes: Change) -> Canonical | Refused:
    found = _SSDEEP.fullmatch(bare)
    if found is None:
        return _NOT_SSDEEP
    block, first, second, name = found.groups()
    ratio, rest = divmod(int(block), _SSDEEP_BLOCK_MIN)
    if rest or ratio.bit_count() != 1:
        return _NOT_SSDEEP
    written = f"{int(block)}:{first}:{second}"
    if name:
        changes |= Change.EXTENSION
    elif written != bare:
        changes |= Change.NOTATION
    return Canonical(written, changes)


def _tlsh(bare: str, changes: Change) -> Canonical | Refused:
    found = _TLSH.fullmatch(bare)
    if found is None:
        return _NOT_TLSH
    version, digits = found.groups()
    written = f"T1{digits.upper()}"
    if written != f"{version or 'T1'}{digits}":
        changes |= Change.CASE
    return Canonical(written, changes if version else changes | Change.NOTATION)


@functools.cache
def _plain_pattern(digits: int) -> str:
    return f"^[0-9A-Fa-f]{{{digits}}}$"


def _plain_digest(algorithm: str) -> functools.partial[Sure]:
    return functools.partial(_decide_digest, pattern=_plain_pattern(DIGITS[algorithm]))


def _decide_digest(values: pl.Series, pattern: str) -> Sure:
    return Sure.of(values, values.str.contains(pattern), values.str.to_lowercase())


def _plain_hash(values: pl.Series, context: str) -> Sure:
    """Bare digits only: what is left is `<algorithm>:` and the digits in lower case."""
    hinted = algorithm_in(context)
    length = values.str.len_bytes()
    decided = values.str.contains("^[0-9A-Fa-f]+$") & length.is_in(list(_BY_LENGTH))
    names = dict(_BY_LENGTH)
    if hinted in DIGITS:
        names[DIGITS[hinted]] = hinted
    lowered = values.str.to_lowercase()
    labels = length.replace_strict(names, default="", return_dtype=pl.String)
    confidence = (labels == hinted).to_numpy() * (1.0 - AMBIGUOUS_CONFIDENCE) + AMBIGUOUS_CONFIDENCE
    flags = Sure.of(values, decided, lowered).changes
    return Sure((labels + ":" + lowered).set(~decided, None), flags, confidence.astype("float32"))
