"""Entities → the set of values by which records are searched for them.

What counts in a text is what `observables` would find there. What of that follows from the value alone is decided here, once a set; the rest
(what stands beside it) is for whoever looks at texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import pyarrow as pa

from heimdall_server.canonical.observables import find_observables
from heimdall_server.domain.entity_sets import DIGEST_TYPES, EntitySet
from heimdall_server.domain.personal import TokenName

_IPV6_CHARACTERS_MIN: Final = 6
_DIGITS: Final = frozenset("0123456789")


def entity_set(entities: Mapping[str, Collection[str]], further_words: Iterable[str] = ()) -> EntitySet:
    """Make a set.

    Args:
        entities: Canonical values by type, each once; values of personal entities are tokens in brackets, whatever their type.
        further_words: Words of tokens that the same personal values have under other epochs.

    Cost: 5 µs a domain name, less than 1 for others.
    """
    plain: dict[str, list[str]] = {}
    words: set[str] = set()
    for type_name, values in entities.items():
        kept = plain.setdefault(type_name, [])
        for value in values:
            name = TokenName.parse(value) if value.startswith("[") else None
            if name is None:
                kept.append(value)
            else:
                words.add(name.word)
    domains = plain.get("domain", [])
    ipv4 = frozenset(value for value in plain.get("ipv4", ()) if "/" not in value)
    ipv6 = frozenset(filter(_is_likely, plain.get("ipv6", ())))
    hosts = _found([f"//{name}/" for name in domains])
    cves = frozenset(plain.get("cve", ()))
    digests = frozenset(value for type_name in DIGEST_TYPES for value in plain.get(type_name, ()))
    others = plain.keys() - {"domain", "ipv4", "ipv6", "cve", *DIGEST_TYPES}
    given = len(domains) + sum(len(plain.get(type_name, ())) for type_name in ("ipv4", "ipv6", *others))
    searched = len(ipv4) + len(ipv6) + len(hosts)
    return EntitySet(
        ipv4,
        ipv6,
        hosts,
        _found(domains),
        cves,
        digests,
        frozenset((*words, *further_words)),
        token_count=len(words),
        unsearched_count=given - searched,
    )


def _is_likely(address: str) -> bool:
    """As `observables` has it: shorter ones, and those without a digit, may be names of code."""
    return "/" not in address and len(address) >= _IPV6_CHARACTERS_MIN and not _DIGITS.isdisjoint(address)


def _found(texts: list[str]) -> frozenset[str]:
    """Domain names that are found in texts of one each."""
    return frozenset(find_observables(pa.array(texts, pa.string()), ("domain",))["value"].to_pylist())
