"""Seals texts that lie in files of their own, under one key that is derived from the journal root: readable for as long as the journal is."""

from __future__ import annotations

import base64
import binascii

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.sealing import ValueSealer
from heimdall_server.domain.errors import IntegrityError

_NUMBER = 1
"""The key has no generations: the root is never rotated, and what is sealed must be read for as long as it is kept."""


class TextSealer:
    """Texts of one purpose, each bound to the place that it is kept at. Thread-safe. Nonces and lengths are `sealing`'s matter."""

    def __init__(self, root: RootKey, purpose: str) -> None:
        """Derive the key.

        Args:
            root: The journal root.
            purpose: What the texts are, as errors name them; another purpose has another key.
        """
        self._purpose = purpose
        self._sealer = ValueSealer(purpose, _NUMBER, root.derive(f"sealed texts/{purpose}"))

    def seal(self, place: str, text: str) -> str:
        """Seal a text.

        Args:
            place: Where it is kept, for example the id of an operation; opening needs the same.
            text: Any length.

        Returns:
            base64.
        """
        return base64.b64encode(self._sealer.seal([place], [text])[0]).decode("ascii")

    def open(self, place: str, sealed: str) -> str:
        """Open what `seal` made.

        Raises:
            IntegrityError: It was changed, moved, or sealed under another key.
        """
        where = f"{self._purpose} of {place}"
        try:
            return self._sealer.open(place, base64.b64decode(sealed, validate=True))
        except (binascii.Error, ValueError, IntegrityError) as error:
            raise IntegrityError(where) from error
