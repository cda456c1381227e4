"""Passwords of the embedded PostgreSQL's roles: made once, each in a file of its own beside the keys."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from heimdall_server.domain.errors import ConfigurationError


def load_or_mint(path: Path, *, mint: bool = True) -> str:
    """The password in a file. Blocks.

    Args:
        path: Readable by its owner only.
        mint: Make it if it isn't there; False: that is an error.

    Raises:
        ConfigurationError: The file can't be read or made, or others may read it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if mint and not path.exists():
            _mint(path)
        if path.stat().st_mode & 0o077:
            raise ConfigurationError((f"postgres: {path} may be read by others: chmod 600",))
        password = path.read_text().strip()
    except OSError as error:
        problem = f"postgres: the password file {path}: {error.strerror}; restore it together with the keys"
        raise ConfigurationError((problem,)) from error
    if not password:
        raise ConfigurationError((f"postgres: the password file {path} is empty",))
    return password


def _mint(path: Path) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_urlsafe(32).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(path)
