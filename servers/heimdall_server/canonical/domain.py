"""Domain names.

IDNA 2008 (RFC 5891) after the mapping of UTS 46 §4 (non-transitional): lower case, A-labels, without the root's dot. Names that DNS
carries though IDNA 2008 wouldn't make them (`_dmarc`, `r3---sn`, A-labels with emoji) are kept, with less confidence.
"""

from __future__ import annotations

import functools
import re
from typing import Final

import idna
import numpy as np
import polars as pl
import pyarrow as pa
from publicsuffixlist import PublicSuffixList

from heimdall_server.canonical.characters import refang_dots
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Refused, Sure, canonicalise, to_arrow
from heimdall_server.canonical.confusables import looks_like_another

DOMAIN_CHARACTERS_MAX: Final = 253
"""RFC 1035 §2.3.4: 255 octets on the wire are 253 characters."""
LABEL_CHARACTERS_MAX: Final = 63
INPUT_CHARACTERS_MAX: Final = 1024

LABELS_KEPT: Final = 16_384
"""Labels whose other form is remembered: it costs 20 µs and more, and labels repeat."""

UNLIKELY_CONFIDENCE: Final = 0.6
"""Of a name that isn't one by IDNA 2008, yet can be in DNS."""
UNDERSCORE_CONFIDENCE: Final = 0.8
"""Of a name with an underscore: a service's (RFC 8552), no host's."""
UNKNOWN_SUFFIX_CONFIDENCE: Final = 0.5
SINGLE_LABEL_CONFIDENCE: Final = 0.3

_LABEL: Final = re.compile(r"[0-9a-z_](?:[0-9a-z_-]{0,61}[0-9a-z_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_PLAIN: Final = r"^(?:[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?\.)+[A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?\.?$"
_LAST_LABEL: Final = r"([^.]+)\.?$"
_LONG_LABEL: Final = r"[^.]{64}"

NOT_A_DOMAIN: Final = Refused("a label is empty or holds what a domain name can't")
_TOO_LONG: Final = Refused("it is longer than a domain name can be")
_LONG: Final = Refused("a label is longer than 63 characters")
_UNMAPPABLE: Final = Refused("it holds a character that no domain name may hold (UTS 46)")
_INVALID_LABEL: Final = Refused("a label is not valid in IDNA 2008")
_AN_ADDRESS: Final = Refused("it ends in a number, as an address does")
_EMPTY: Final = Refused("it is empty")


def domain(values: pa.StringArray) -> CanonicalColumn:
    """Domain names as IDNA 2008 and UTS 46 write them on the wire.

    Confidence is 1 below a suffix of the Public Suffix List, `UNKNOWN_SUFFIX_CONFIDENCE` elsewhere. A name that looks like
    another one (UTS 39) is flagged and never changed.
    """
    return canonicalise(values, read_domain, _plain_domain)


def registrable_domains(values: pa.StringArray) -> pa.StringArray:
    """The part of each canonical name that its owner registered (public suffix and one label); null: the name is a suffix itself."""
    texts = pl.Series(values, dtype=pl.String)
    known = {text: _suffixes().privatesuffix(text) for text in texts.unique().drop_nulls().to_list()}
    return to_arrow(texts.replace_strict(known, default=None, return_dtype=pl.String))


def read_domain(text: str) -> Canonical | Refused:
    """The rule of `domain` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    stripped = text.strip()
    name, changes = refang_dots(stripped)
    if len(stripped) != len(text):
        changes |= Change.TRIMMED
    if not name.isascii():
        try:
            mapped = idna.uts46_remap(name, std3_rules=False)
        except UnicodeError:
            return _UNMAPPABLE
        mapped = mapped.strip()
        if mapped != name:
            changes |= Change.CHARACTERS
        name = mapped
    lowered = name.lower()
    if lowered != name:
        changes |= Change.CASE
    if lowered.endswith("."):
        lowered, changes = lowered[:-1], changes | Change.TRAILING_DOT
    if not lowered:
        return _EMPTY
    return _of_labels(lowered.split("."), changes)


def show_domain(canonical: str) -> str:
    """A canonical name for people: U-labels, except where it looks like another name (UTS 39)."""
    if "xn--" not in canonical:
        return canonical
    labels = []
    for label in canonical.split("."):
        unicode = _unicode(label) if label.startswith("xn--") else label
        labels.append(label if unicode is None or _misleads(unicode, label) else unicode)
    return ".".join(labels)


def _of_labels(labels: list[str], changes: Change) -> Canonical | Refused:
    confidence = 1.0
    written = []
    for label in labels:
        if len(label) > LABEL_CHARACTERS_MAX and label.isascii():
            return _LONG
        if not label.isascii():
            encoded = _ascii(label)
            if encoded is None:
                return _INVALID_LABEL
            changes |= Change.NOTATION
            unicode: str | None = label
        elif _LABEL.fullmatch(label) is None:
            return NOT_A_DOMAIN
        else:
            encoded, unicode = label, None
            if label.startswith("xn--"):
                unicode = _unicode(label)
                confidence = min(confidence, 1.0 if unicode else UNLIKELY_CONFIDENCE)
            elif "_" in label:
                confidence = min(confidence, UNDERSCORE_CONFIDENCE)
        if unicode and _misleads(unicode, encoded):
            changes |= Change.CONFUSABLE
        written.append(encoded)
    name = ".".join(written)
    if len(name) > DOMAIN_CHARACTERS_MAX:
        return _TOO_LONG
    if _NUMBER.fullmatch(written[-1]):
        return _AN_ADDRESS
    if len(written) == 1:
        confidence = min(confidence, SINGLE_LABEL_CONFIDENCE)
    elif not is_suffix(written[-1]):
        confidence = min(confidence, UNKNOWN_SUFFIX_CONFIDENCE)
    return Canonical(name, changes, confidence)


@functools.lru_cache(maxsize=LABELS_KEPT)
def _ascii(label: str) -> str | None:
    try:
        return idna.alabel(label).decode("ascii")
    except UnicodeError:
        return None


@functools.lru_cache(maxsize=LABELS_KEPT)
def _unicode(label: str) -> str | None:
    """The U-label of an A-label; None: it isn't one by IDNA 2008."""
    try:
        unicode = idna.ulabel(label)
    except UnicodeError:
        return None
    return unicode if unicode != label and _ascii(unicode) == label else None


def _misleads(unicode: str, label: str) -> bool:
    # Nobody can register a top-level label that looks like another one.
    return looks_like_another(unicode) and not is_suffix(label)


@functools.cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


@functools.lru_cache(maxsize=4096)
def is_suffix(label: str) -> bool:
    """Whether names are registered below a top-level label, by the Public Suffix List."""
    return _known_suffixes().publicsuffix(label) is not None


@functools.cache
def _known_suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False)


def _plain_domain(values: pl.Series) -> Sure:
    decided = values.str.contains(_PLAIN) & (values.str.len_bytes() <= DOMAIN_CHARACTERS_MAX)
    lowered = values.str.to_lowercase()
    decided &= ~lowered.str.contains("xn--", literal=True)
    long = values.str.len_bytes() > LABEL_CHARACTERS_MAX
    if long.any():
        decided &= ~(long & values.str.contains(_LONG_LABEL))
    sure = Sure.of(values, decided, lowered, confidence=1.0)
    canonical, flags = sure.values, sure.changes
    dotted = lowered.str.ends_with(".")
    if dotted.any():
        canonical = canonical.str.strip_suffix(".")
        flags |= dotted.to_numpy().astype(np.uint32) * np.uint32(Change.TRAILING_DOT)
    return Sure(canonical, flags, suffix_confidence(canonical))


def suffix_confidence(names: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """1 where a name of several labels, in lower case, ends in a known top-level label; else `UNKNOWN_SUFFIX_CONFIDENCE`."""
    last = names.str.extract(_LAST_LABEL)
    unknown = [label for label in last.unique().drop_nulls().to_list() if not is_suffix(label)]
    if not unknown:
        return np.ones(len(names), np.float32)
    return np.where(last.is_in(unknown).to_numpy(), np.float32(UNKNOWN_SUFFIX_CONFIDENCE), np.float32(1.0))
