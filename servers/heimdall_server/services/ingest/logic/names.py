"""What sources and dumps are called where it is stored: a name that holds personal data gets another one.

A client names its source, often after a file: `web-1/alice@example.com.log`. The name stands in each of the source's records, in the journal's
control state and in dead letters, so there it is `web-1/[email]~5c1e…`: masked, with a keyed digest of the whole behind it, which tells
sources apart that look alike now. On the wire the client goes on to use its own name; offsets, repeats and fencing work as ever.

What rules find changes from version to version, and a source that got another name would begin at 0. So one that is known, by its plain name
or by its digest, keeps the name that it has.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from heimdall_server.services.ingest.model import DumpFacts

_DIGEST_BYTES: Final = 8
_SIGN: Final = "~"
_DIGEST: Final = re.compile(rf"{_SIGN}([0-9a-f]{{{2 * _DIGEST_BYTES}}})$")


def digest_in(name: str) -> str:
    """The digest behind a name that was given here; empty: it was given elsewhere."""
    found = _DIGEST.search(name)
    return found[1] if found else ""


def as_masked(name: str) -> str:
    """A name that was given here without its digest: what it reads where masks are all that the policy writes. Another name as it is."""
    return _DIGEST.sub("", name)


class StoredNames:
    """See the module. Thread-safe; some tens of microseconds a name."""

    def __init__(self, mask: Callable[[str], str], key: bytes) -> None:
        """Take what it needs.

        Args:
            mask: Puts classes in place of personal data.
            key: 32 bytes, for nothing else; with another one all such names are others.
        """
        self._mask = mask
        self._key = key

    def stored(self, name: str) -> str:
        """The name, or another one for it; the same each time."""
        masked = self._mask(name)
        return name if masked == name else f"{masked}{_SIGN}{self.digest(name)}"

    def digest(self, name: str) -> str:
        """Keyed digest of a name: 16 hexadecimal digits."""
        return hmac.digest(self._key, name.encode(), hashlib.sha256)[:_DIGEST_BYTES].hex()

    def dump(self, facts: DumpFacts) -> DumpFacts:
        """What a dump's opener said, as it may be kept."""
        return replace(
            facts,
            name=self.stored(facts.name),
            file_name=self.stored(facts.file_name),
            origin=self.stored(facts.origin),
        )
