"""Cyber-observable objects of STIX (§6) → the values that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from heimdall_server.canonical.hashes import algorithm_in
from heimdall_server.services.graph.logic.interchange.drafts import Thing

OURS: Final = "x-heimdall-entity"
"""The object of what STIX has none for: `entity_type` and `value`."""
ACCOUNT_HINT: Final = "full_name"
"""A field of this name holds what somebody is called, whatever it looks like: logins and people are treated as such."""
HINTS: Final[Mapping[str, str]] = {
    "email": "email",
    "phone": "phone",
    "iban": "iban",
    "card": "card_number",
    "name": ACCOUNT_HINT,
    "ipv4": "ip",
    "ipv6": "ip",
}
"""Names of fields that hold values of a type; of others the type's own."""
_Object: TypeAlias = Mapping[str, Any]


def things_of(object_: _Object) -> Sequence[Thing]:
    """The values that an observable object is, the one that names it best first.

    Raises:
        ValueError: It says nothing that names it; the sentence says what is missing.
    """
    type_ = str(object_["type"])
    read = _READERS.get(type_)
    if read is not None:
        return read(object_)
    for key in ("value", "name"):
        if isinstance(object_.get(key), str):
            return (Thing(type_, object_[key]),)
    return (_by_id(object_),)


def _by_id(object_: _Object) -> Thing:
    return Thing(str(object_["type"]), str(object_["id"]), opaque=True, keyed=True)


def _valued(type_: str) -> Callable[[_Object], Sequence[Thing]]:
    return lambda object_: (Thing(type_, str(object_["value"]), HINTS.get(type_, type_)),)


def _hashes(object_: _Object) -> list[Thing]:
    found = []
    for name, value in (object_.get("hashes") or {}).items():
        algorithm = algorithm_in(str(name))
        found.append(Thing(algorithm or "hash", str(value), "hash"))
    # A strong one names it best; those are the longest.
    return sorted(found, key=lambda thing: (thing.type in ("ssdeep", "tlsh", "imphash"), -len(thing.value), thing.type))


def _file(object_: _Object) -> Sequence[Thing]:
    found = _hashes(object_)
    if not found and object_.get("name"):
        found = [Thing("file", str(object_["name"]))]
    if not found:
        raise ValueError("a file needs a hash or a name")
    return found


def _artifact(object_: _Object) -> Sequence[Thing]:
    found = _hashes(object_)
    if not found and object_.get("url"):
        found = [Thing("url", str(object_["url"]), "url")]
    return found or (_by_id(object_),)


def _certificate(object_: _Object) -> Sequence[Thing]:
    found = _hashes(object_)
    if not found and object_.get("serial_number"):
        found = [Thing("x509-certificate", f"{object_.get('issuer', '')} {object_['serial_number']}")]
    return found or (_by_id(object_),)


def _account(object_: _Object) -> Sequence[Thing]:
    for key in ("account_login", "user_id", "display_name"):
        if object_.get(key):
            return (Thing("user-account", str(object_[key]), ACCOUNT_HINT),)
    raise ValueError("a user-account needs account_login, user_id or display_name")


def _software(object_: _Object) -> Sequence[Thing]:
    said = (str(object_[key]) for key in ("name", "version") if object_.get(key))
    return (Thing("software", " ".join(said)),)


def _ours(object_: _Object) -> Sequence[Thing]:
    type_, value = object_.get("entity_type"), object_.get("value")
    if not isinstance(type_, str) or not isinstance(value, str):
        raise ValueError(f"{OURS} needs entity_type and value")  # noqa: TRY004 - it is what was sent
    return (Thing(type_, value, HINTS.get(type_, type_)),)


_READERS: Final[Mapping[str, Callable[[_Object], Sequence[Thing]]]] = {
    "artifact": _artifact,
    "autonomous-system": lambda object_: (Thing("asn", f"AS{object_['number']}", "asn"),),
    "directory": lambda object_: (Thing("file_path", str(object_["path"]), "file_path"),),
    "domain-name": _valued("domain"),
    "email-addr": _valued("email"),
    "email-message": lambda object_: (_by_id(object_),),
    "file": _file,
    "ipv4-addr": _valued("ipv4"),
    "ipv6-addr": _valued("ipv6"),
    "mac-addr": _valued("mac"),
    "mutex": lambda object_: (Thing("mutex", str(object_["name"])),),
    "network-traffic": lambda object_: (_by_id(object_),),
    "process": lambda object_: (_by_id(object_),),
    "software": _software,
    "url": _valued("url"),
    "user-account": _account,
    "windows-registry-key": lambda object_: (Thing("registry_key", str(object_.get("key", "")), "registry_key"),),
    "x509-certificate": _certificate,
    OURS: _ours,
}
OBSERVABLE_TYPES: Final = frozenset(_READERS) - {OURS}
"""Types whose ids may be hashes of what they say."""
