"""What the keyring's file says: JSON, one entry a key, and a MAC over the whole.

    {"format": 1, "id": "<32 hex>", "revision": 7,
     "keys": [{"kind": "data", "class": "email", "number": 2, "created_time_ns": …, "wrapped": "<base64>", "wrapped_by": "<KEK>"},
              {"kind": "data", "class": "email", "number": 1, "created_time_ns": …, "destroyed_time_ns": …, "destroyed_by": "…"}],
     "mac": "<64 hex>"}

The MAC is HMAC-SHA256 under a key derived from the journal root over the canonical JSON of all the rest: an entry that was changed,
swapped, removed or put in is refused, and so is a file of another keyring. Each wrapped key is bound to its place besides
(`KeyEntry.context`). What neither can tell is an older file of the same keyring, put back whole: that is what restoring a backup is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from heimdall_server.domain.errors import CorruptionError

KeyKind: TypeAlias = Literal["journal", "identity", "signing", "audit", "data", "index"]
FORMAT: Final = 1
_ENTRY_NAMES: Final = {"kind", "class", "number", "created_time_ns"}
_LIVE_NAMES: Final = _ENTRY_NAMES | {"wrapped", "wrapped_by"}
_DESTROYED_NAMES: Final = _ENTRY_NAMES | {"destroyed_time_ns", "destroyed_by"}

Place: TypeAlias = tuple[KeyKind, str, int]
"""Names a key in the ring: kind, class, number."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key as it is stored."""

    kind: KeyKind
    data_class: str
    """Of a data key; empty elsewhere."""
    number: int
    """Generation of a data key, from 1; ordinal of an index key, from 0, never used again; else 0."""
    created_time_ns: int
    wrapped: bytes = field(default=b"", repr=False)
    """Under the KEK; empty once destroyed."""
    wrapped_by: str = ""
    """Id of the KEK."""
    destroyed_time_ns: int = 0
    """0: it lives."""
    destroyed_by: str = ""

    @property
    def place(self) -> Place:
        """Names the key."""
        return self.kind, self.data_class, self.number

    @property
    def lives(self) -> bool:
        """Whether it is there."""
        return self.destroyed_time_ns == 0

    def destroyed(self, time_ns: int, by: str) -> KeyEntry:
        """The entry without its key."""
        return replace(self, wrapped=b"", wrapped_by="", destroyed_time_ns=time_ns, destroyed_by=by)

    def context(self, keyring_id: str) -> bytes:
        """What a KEK authenticates with the key: no wrapped key can stand in for another."""
        return f"heimdall/keyring/1/{keyring_id}/{self.kind}/{self.data_class}/{self.number}".encode()


@dataclass(frozen=True, slots=True)
class KeyringDocument:
    """The whole file."""

    keyring_id: str
    revision: int
    """Grows by one with each change."""
    entries: tuple[KeyEntry, ...]

    def changed(self, entries: Sequence[KeyEntry]) -> KeyringDocument:
        """The next revision, with these entries in place of those with the same name, or added."""
        held = {entry.place: entry for entry in self.entries}
        held.update((entry.place, entry) for entry in entries)
        return replace(self, revision=self.revision + 1, entries=tuple(held.values()))


def encode(document: KeyringDocument, mac_key: bytes) -> bytes:
    """The file of a document."""
    body = _body(document)
    body["mac"] = _mac(body, mac_key).hex()
    return json.dumps(body, indent=1).encode() + b"\n"


def decode(content: bytes, *, place: str) -> tuple[KeyringDocument, bytes]:
    """Read a file, without trust in it yet.

    Args:
        content: The file.
        place: What to call it in an error.

    Returns:
        The document, and the MAC that it bears: see `check`.

    Raises:
        CorruptionError: Not a keyring, or of a newer version.
    """
    try:
        body = json.loads(content)
        version = body["format"]
        if version != FORMAT:
            raise CorruptionError(place, f"a keyring of format {version!r:.20}; this version reads format {FORMAT}")
        mac = bytes.fromhex(body["mac"])
        document = KeyringDocument(str(body["id"]), int(body["revision"]), tuple(map(_entry, body["keys"])))
        if len(mac) != hashlib.sha256().digest_size or len({e.place for e in document.entries}) < len(document.entries):
            msg = "a MAC of another length, or a key twice"
            raise ValueError(msg)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # Without its cause: the text of a decoder's error may repeat what it couldn't read.
        raise CorruptionError(place, f"not a keyring ({type(error).__name__}); restore it from a backup") from None
    return document, mac


def check(document: KeyringDocument, mac: bytes, mac_key: bytes, *, place: str) -> None:
    """Refuse a document that its MAC doesn't fit.

    Raises:
        CorruptionError: It was changed by somebody without the key.
    """
    if not hmac.compare_digest(_mac(_body(document), mac_key), mac):
        problem = "the keyring was changed by somebody else than Heimdall, or is damaged; restore it from a backup"
        raise CorruptionError(place, problem)


def _body(document: KeyringDocument) -> dict[str, Any]:
    keys = []
    for entry in document.entries:
        key: dict[str, Any] = {
            "kind": entry.kind,
            "class": entry.data_class,
            "number": entry.number,
            "created_time_ns": entry.created_time_ns,
        }
        if entry.lives:
            key |= {"wrapped": base64.b64encode(entry.wrapped).decode(), "wrapped_by": entry.wrapped_by}
        else:
            key |= {"destroyed_time_ns": entry.destroyed_time_ns, "destroyed_by": entry.destroyed_by}
        keys.append(key)
    return {"format": FORMAT, "id": document.keyring_id, "revision": document.revision, "keys": keys}


def _entry(key: dict[str, Any]) -> KeyEntry:
    if set(key) not in (_LIVE_NAMES, _DESTROYED_NAMES) or key["kind"] not in get_args(KeyKind):
        msg = "not an entry"
        raise ValueError(msg)
    return KeyEntry(
        kind=key["kind"],
        data_class=str(key["class"]),
        number=int(key["number"]),
        created_time_ns=int(key["created_time_ns"]),
        wrapped=base64.b64decode(key.get("wrapped", ""), validate=True),
        wrapped_by=str(key.get("wrapped_by", "")),
        destroyed_time_ns=int(key.get("destroyed_time_ns", 0)),
        destroyed_by=str(key.get("destroyed_by", "")),
    )


def _mac(body: dict[str, Any], mac_key: bytes) -> bytes:
    return hmac.digest(mac_key, json.dumps(body, sort_keys=True, separators=(",", ":")).encode(), "sha256")
