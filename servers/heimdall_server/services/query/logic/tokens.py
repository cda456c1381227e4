"""Opaque tokens that let a stream go on: versioned, MACed, bound to the request they came from.

A token says where a reader is, never what it may see: permissions are checked anew on each call. The MAC keeps a
client from making one up (a forged position could skip the snapshot that a result promises).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any, Final

from heimdall_server.domain.errors import TokenError
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import RowKey

_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 16
_BOUND_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader is."""

    through: Positions = field(default_factory=dict)
    """Search: the snapshot. Watch: everything up to here has been looked at."""
    after: RowKey | None = None
    """Search: the last row that was delivered. Watch: the same, where it is in the midst of a frame."""
    returned: int = 0
    """Search: rows delivered so far, so that a row limit holds over resumed calls."""
    since_ns: int = 0
    """Watch: records before the seam count only if their time isn't before this; aggregates: the oldest open bucket."""
    seam: int = 0
    """Watch: the journal position at which it went from history to live."""


class TokenCodec:
    """Makes and reads tokens. Cheap; thread-safe."""

    def __init__(self, key: bytes, *, journal_id: str) -> None:
        self._key = key
        self._journal_id = journal_id

    def seal(self, place: Place, *, bound_to: bytes) -> bytes:
        """Make a token.

        Args:
            place: Where the reader is.
            bound_to: Digest of the request (and its caller's scope) that may use it.
        """
        raw: dict[str, Any] = {"j": self._journal_id, "p": {str(k): v for k, v in place.through.items()}}
        if place.after is not None:
            raw["a"] = [place.after.time_ns, place.after.shard, place.after.position, place.after.row]
        counts = {"n": place.returned, "s": place.since_ns, "m": place.seam}
        raw |= {name: value for name, value in counts.items() if value}
        body = _VERSION + bound_to[:_BOUND_BYTES] + json.dumps(raw, separators=(",", ":")).encode()
        return body + self._mac(body)

    def open(self, token: bytes, *, bound_to: bytes) -> Place:
        """Read a token.

        Raises:
            TokenError: Not ours, damaged, of another journal, or of another request.
        """
        body, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
        if not hmac.compare_digest(self._mac(body), mac):
            raise TokenError("it wasn't made by this instance, or is damaged")
        if body[:1] != _VERSION:
            raise TokenError("it is of another version")
        if body[1 : 1 + _BOUND_BYTES] != bound_to[:_BOUND_BYTES]:
            raise TokenError("it belongs to another query")
        raw = json.loads(body[1 + _BOUND_BYTES :])
        if raw["j"] != self._journal_id:
            raise TokenError("it belongs to another journal")
        after = RowKey(*raw["a"]) if "a" in raw else None
        return Place({int(k): v for k, v in raw["p"].items()}, after, raw.get("n", 0), raw.get("s", 0), raw.get("m", 0))

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_MAC_BYTES]


def digest(*parts: object) -> bytes:
    """What a token is bound to: a digest of everything that shapes the answer."""
    text = "\x00".join(str(part) for part in parts)
    return hashlib.sha256(text.encode()).digest()
