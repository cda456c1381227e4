"""Lists in the layout of MISP's (https://github.com/MISP/misp-warninglists): `lists/NAME/list.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from heimdall_server.canonical.catalogue import CANONICALISERS
from heimdall_server.domain.warninglists import ENTRIES_MAX, TEXT_CHARACTERS_MAX, Match, Warninglist

SOURCE: Final = "https://github.com/MISP/misp-warninglists"
LICENCE: Final = "CC0-1.0"
UNKNOWN_CONFIDENCE: Final = 30
"""Of what is on a list of which we know nothing: less sure, and still walked through."""
_MATCHES: Final = {"cidr": Match.NETWORK, "hostname": Match.DOMAIN, "string": Match.VALUE}
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "ip-src": ("ipv4", "ipv6"),
    "ip-dst": ("ipv4", "ipv6"),
    "domain": ("domain",),
    "hostname": ("domain",),
    "url": ("url",),
    "user-agent": ("user_agent",),
    "AS": ("asn",),
    "mac-address": ("mac",),
    **{name: (name,) for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ssdeep", "tlsh", "imphash")},
}
"""Types of entities by MISP's attributes; the others say nothing about an entity of ours, or about people."""
_CHARACTERS_MAX: Final = 2048
"""Of an entry."""


def from_misp(name: str, value: object, *, known: Warninglist | None = None) -> tuple[Warninglist, int]:
    """Make a list of ours of one of MISP's.

    Args:
        name: Of its folder, or file.
        value: What the file holds.
        known: The list of this name that we have: how it matches and what it is believed stays.

    Returns:
        The list, and how many of its entries aren't understood and were left out.

    Raises:
        ValueError: It is no such list, or one that can't be used here.
    """
    told = value if isinstance(value, Mapping) else {}
    listed = told.get("list")
    if not isinstance(listed, list):
        raise ValueError("it has no list of entries")  # noqa: TRY004 - a file's content, not an argument's type
    match = _MATCHES.get(str(told.get("type")))
    if match is None:
        raise ValueError(f"entries of the type {str(told.get('type'))[:32]!r} aren't matched here")
    raw = [str(one) for one in listed if isinstance(one, str | int)]
    if len(raw) > ENTRIES_MAX:
        raise ValueError(f"it has more than {ENTRIES_MAX:,} entries")
    types = _types_of(match, told.get("matching_attributes", ()))
    entries, kept_types = _canonical(match, types, raw)
    if not entries:
        raise ValueError("none of its entries is understood")
    described = Warninglist(
        name=name.lower(),
        title=_text(told.get("name"), name),
        description=_text(told.get("description"), ""),
        source=SOURCE,
        licence=LICENCE,
        version=_text(told.get("version"), ""),
        match=match if known is None or known.match is Match.PUBLIC_SUFFIX else known.match,
        types=kept_types,
        confidence=UNKNOWN_CONFIDENCE if known is None else known.confidence,
        entries=entries,
    )
    return described, len(raw) - len(entries)


def _types_of(match: Match, attributes: object) -> tuple[str, ...]:
    if match is Match.NETWORK:
        return ("ipv4", "ipv6")
    if match is Match.DOMAIN:
        return ("domain",)
    told = attributes if isinstance(attributes, Sequence) and not isinstance(attributes, str) else ()
    # A list of names of hosts says that it is about URLs, too: about those with such a host, which we see as domains.
    found = {name for one in told for name in _TYPES.get(str(one), ())}
    return tuple(sorted(found - {"url"} if "domain" in found else found))


def _canonical(match: Match, types: Sequence[str], raw: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entries as entities have them, each once, and the types that some of them are of."""
    texts = pa.array([one.strip().lstrip(".") if match is Match.DOMAIN else one.strip() for one in raw], pa.string())
    texts = texts.filter(pa.array([0 < len(one) <= _CHARACTERS_MAX for one in texts.to_pylist()], pa.bool_()))
    found: set[str] = set()
    kept: list[str] = []
    for name in types:
        values: list[Any] = CANONICALISERS[name](texts).values.drop_null().to_pylist()
        if values:
            kept.append(name)
            found.update(values)
    return tuple(sorted(found)), tuple(kept)


def _text(value: object, otherwise: str) -> str:
    text = str(value) if isinstance(value, str | int) else otherwise
    printable = "".join(one if one.isprintable() else " " for one in text[:TEXT_CHARACTERS_MAX])
    return printable.strip()
