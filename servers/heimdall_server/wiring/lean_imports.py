"""Keeps a library out of the server that another one would load and nobody uses. Imports nothing of ours, so that it can come first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

_UNUSED: Final = "pandas"
"""pyarrow loads it, where it is installed, for the first array made of Python's objects, to see whether they are its own; and it is installed with chDB.
That is a fifth of the CPU time until a server listens, and 25 MB."""


class _Refusal(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the interface's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == _UNUSED:
            msg = f"a Heimdall server does without {_UNUSED}"
            raise ModuleNotFoundError(msg, name=fullname)
        return None


def prepare() -> None:
    """From now on the library can't be imported in this process. The server's first act; the SDK, which offers data frames, never does this."""
    sys.meta_path.insert(0, _Refusal())
