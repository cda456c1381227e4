"""Deterministic ids of STIX 2.1 cyber-observable objects (STIX 2.1 §2.9).

UUIDv5 in the namespace of the standard over the id-contributing properties as canonical JSON (RFC 8785). They are hashes without a
key, so anyone can confirm a guess: those of personal types are computed for an export under a grant, and never stored.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.column import to_arrow

NAMESPACE: Final = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")

Properties: TypeAlias = "dict[str, str | int | dict[str, str]]"

HASH_NAMES: Final[Mapping[str, str]] = {
    "md5": "MD5",
    "sha1": "SHA-1",
    "sha256": "SHA-256",
    "sha512": "SHA-512",
    "sha3_256": "SHA3-256",
    "sha3_512": "SHA3-512",
    "ssdeep": "SSDEEP",
    "tlsh": "TLSH",
}
"""Hash types by their names in the vocabulary hash-algorithm-ov (§10.8); the others have none."""


def _value(canonical: str) -> Properties:
    return {"value": canonical}


def _hash(algorithm: str) -> Callable[[str], Properties]:
    # Objects have a TLSH hash without the version that TLSH 4 puts before it.
    return lambda canonical: {"hashes": {HASH_NAMES[algorithm]: canonical.removeprefix("T1")}}


_OBJECTS: Final[Mapping[str, tuple[str, Callable[[str], Properties]]]] = {
    "ipv4": ("ipv4-addr", _value),
    "ipv6": ("ipv6-addr", _value),
    "domain": ("domain-name", _value),
    "url": ("url", _value),
    "email": ("email-addr", _value),
    "mac": ("mac-addr", _value),
    "asn": ("autonomous-system", lambda canonical: {"number": int(canonical.removeprefix("AS"))}),
    "registry_key": ("windows-registry-key", lambda canonical: {"key": canonical}),
    **{name: ("file", _hash(name)) for name in HASH_NAMES},
}
STIX_TYPES: Final = frozenset(_OBJECTS) | {"ip", "hash"}
"""Types of values that STIX has an object for. An account, a process or a file's path isn't one value: no object here."""


def sco_ids(type_name: str, values: pa.StringArray) -> pa.StringArray:
    """Ids of the objects that values are.

    Args:
        type_name: A name of the catalogue of types.
        values: Canonical.

    Returns:
        As many ids (`ipv4-addr--…`); null where a value is, or STIX has no object for it.
    """
    texts = pl.Series(values, dtype=pl.String)
    names = {value: _sco_id(type_name, value) for value in texts.unique().drop_nulls().to_list()}
    return to_arrow(texts.replace_strict(names, default=None, return_dtype=pl.String))


def properties_of(type_name: str, canonical: str) -> tuple[str, Properties] | None:
    """The type of the object and its id-contributing properties; None: STIX has no object for it."""
    if type_name == "ip":
        type_name = "ipv6" if ":" in canonical else "ipv4"
    elif type_name == "hash":
        type_name, _, canonical = canonical.partition(":")
    found = _OBJECTS.get(type_name)
    return None if found is None else (found[0], found[1](canonical))


def _sco_id(type_name: str, canonical: str) -> str | None:
    described = properties_of(type_name, canonical)
    if described is None:
        return None
    object_type, properties = described
    # Of names in ASCII, texts and integers below 2^53 this is RFC 8785: it differs from what `json` writes in numbers and in the order
    # of names beyond the Basic Multilingual Plane only.
    text = json.dumps(properties, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return f"{object_type}--{uuid.uuid5(NAMESPACE, text)}"
