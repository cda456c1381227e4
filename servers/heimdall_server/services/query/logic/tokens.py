"""Opaque tokens that let a stream go on: versioned, MACed, bound to the request they came from.

A token says where a reader is, never what it may see: permissions are checked anew on each call. The MAC keeps a
client from making one up (a forged position could skip the snapshot that a result promises).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from heimdall_server.domain.errors import TokenError
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import RowKey

_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 16
_BOUND_BYTES: Final = 16
_COUNTS: Final = {
    "n": "returned",
    "b": "page_start",
    "t": "now_ns",
    "s": "since_ns",
    "m": "seam",
    "h": "horizon_ns",
    "c": "counted_through",
    "l": "last_count",
    "g": "sets_digest",
}
"""Short names of the fields that are left out where they are 0."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader is. What isn't said to be a search's belongs to watches, but for the first four fields."""

    through: Positions = field(default_factory=dict)
    """Search: the snapshot. Watch: everything up to here has been looked at."""
    after: RowKey | None = None
    """Search: the last row that was delivered. Watch: the same, where it is in the midst of a frame."""
    returned: int = 0
    """Rows delivered so far, so that the query's own `limit` holds over resumed calls."""
    page_start: int = 0
    """Search: rows that were delivered before this page, so that the request's row limit holds for each page."""
    now_ns: int = 0
    """What `now` means in the question."""
    since_ns: int = 0
    """Records before the seam count only if their time isn't before this."""
    seam: int = 0
    """The journal position at which the watch went from history to live."""
    horizon_ns: int = 0
    """Aggregates: buckets that begin before it are closed."""
    counted_through: int = 0
    """Aggregates: how far values had been sent; while counting up to here again, nothing is said."""
    last_count: int = 0
    """The watch hasn't yet found where its last so many records begin."""
    sets_digest: int = 0
    """Search: of the sets of entities that its first page asked for; 0: it asks for none."""


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
        raw |= {short: value for short, name in _COUNTS.items() if (value := getattr(place, name))}
        body = _VERSION + bound_to[:_BOUND_BYTES] + json.dumps(raw, separators=(",", ":")).encode()
        return body + self._mac(body)

    def open(self, token: bytes, *, bound_to: Callable[[Place], bytes]) -> Place:
        """Read a token.

        Args:
            token: As it was sent.
            bound_to: Tells what the token must be bound to, asked with the place that it names: what a question means may
                depend on that (`now_ns`). Whatever it raises is passed on.

        Raises:
            TokenError: Not ours, damaged, of another journal, or of another request.
        """
        body, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
        if not hmac.compare_digest(self._mac(body), mac):
            raise TokenError("it wasn't made by this instance, or is damaged")
        if body[:1] != _VERSION:
            raise TokenError("it is of another version")
        raw = json.loads(body[1 + _BOUND_BYTES :])
        place = Place(
            {int(shard): position for shard, position in raw["p"].items()},
            RowKey(*raw["a"]) if "a" in raw else None,
            **{name: raw.get(short, 0) for short, name in _COUNTS.items()},
        )
        if body[1 : 1 + _BOUND_BYTES] != bound_to(place)[:_BOUND_BYTES]:
            raise TokenError("it belongs to another query")
        if raw["j"] != self._journal_id:
            raise TokenError("it belongs to another journal")
        return place

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_MAC_BYTES]


def digest(*parts: object) -> bytes:
    """What a token is bound to: a digest of everything that shapes the answer."""
    return digest_spelled(map(repr, parts))


def digest_spelled(parts: Iterable[str]) -> bytes:
    """As `digest`, of parts that are spelled out already."""
    return hashlib.sha256("\x00".join(parts).encode()).digest()
