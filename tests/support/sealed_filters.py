"""What seals the filters of deletions in a ledger of a test."""

from __future__ import annotations

from typing import Final

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.text_sealing import TextSealer

FILTERS: Final = TextSealer(RootKey(b"f" * 32), "deletion_filter")
"""The same key in every ledger, so that one that is opened again is read."""
