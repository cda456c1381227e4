"""What the tests of whole processes share."""

from __future__ import annotations

from tests.support.server_process import server

__all__ = ["server"]
