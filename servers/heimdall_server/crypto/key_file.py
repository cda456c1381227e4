"""Where the root key comes from: a file that only its owner can read, or a text from the environment.

The key lies beside the data, never under it. The data names the fingerprint of its key; where that is known,
no new key is ever minted: a lost key means lost data, and a new one would only hide it.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path
from typing import Final

from heimdall_server.crypto.envelope import KEY_BYTES, RootKey
from heimdall_server.domain.errors import ConfigurationError, KeyMismatchError

_PREFIX: Final = "heimdall-key-1:"
_FILE_BYTES_MAX: Final = 1024


def parse_key(text: str, *, where: str) -> RootKey:
    """Read a key from its text form.

    Args:
        text: `heimdall-key-1:` and 44 characters of base64.
        where: What to call its origin in an error, for example `HEIMDALL_KEY`.

    Raises:
        ConfigurationError: Not a key. The text itself isn't repeated.
    """
    text = text.strip()
    try:
        if not text.startswith(_PREFIX):
            msg = "no prefix"
            raise ValueError(msg)
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        return RootKey(secret)
    except (ValueError, binascii.Error) as error:
        problem = f"{where}: not a key; it must be {_PREFIX} followed by {KEY_BYTES} bytes in base64"
        raise ConfigurationError((problem,)) from error


def format_key(key: RootKey) -> str:
    """The text form of a key, for `parse_key`. Secret."""
    return _PREFIX + base64.b64encode(key.secret).decode()


def load_key(path: Path) -> RootKey | None:
    """Read a key file.

    Returns:
        The key; None if there is no file.

    Raises:
        ConfigurationError: Not a key file, unreadable, or readable by others than its owner.
    """
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            text = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError((f"key file {path}: {error.strerror}",)) from error
    # A credential that systemd or a container platform hands over is root's; its group bit is our right to read it.
    forbidden = 0o077 if facts.st_uid == os.geteuid() else 0o027
    if facts.st_mode & forbidden:
        raise ConfigurationError((f"key file {path}: others than its owner may use it; run chmod 600 on it",))
    if len(text) > _FILE_BYTES_MAX:
        raise ConfigurationError((f"key file {path}: not a key file, it is over {_FILE_BYTES_MAX} bytes",))
    return parse_key(text.decode(errors="replace"), where=f"key file {path}")


def mint_key(path: Path) -> RootKey:
    """Make a key file, durable before this returns. Never replaces a file.

    Raises:
        ConfigurationError: There is a file already, or it can't be written.
    """
    key = RootKey(secrets.token_bytes(KEY_BYTES))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(format_key(key) + "\n")
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, fails where another process was quicker.
            os.link(draft, path)
        finally:
            draft.unlink()
        # Its folder may be new, too.
        for directory in (path.parent, path.parent.parent):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise ConfigurationError((f"key file {path}: can't be made: {error.strerror}",)) from error
    return key


def load_or_mint_key(path: Path, *, expected_fingerprint: str | None) -> RootKey:
    """The key of a data folder, minted only where there is no data yet.

    Args:
        path: The key file.
        expected_fingerprint: What the data says about its key; None: there is no data.

    Raises:
        KeyMismatchError: The data has another key, or the file is missing although there is data.
        ConfigurationError: As `load_key` and `mint_key`.
    """
    key = load_key(path)
    if key is None:
        if expected_fingerprint is not None:
            raise KeyMismatchError(expected_fingerprint, "")
        return mint_key(path)
    if expected_fingerprint is not None and key.fingerprint != expected_fingerprint:
        raise KeyMismatchError(expected_fingerprint, key.fingerprint)
    return key
