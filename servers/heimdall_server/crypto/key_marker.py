"""A small file in the data folder that names the keyring the data belongs to.

Without it, a data folder whose keyring was lost would look like one that never had any, and get new keys that open nothing.
"""

from __future__ import annotations

from pathlib import Path

from heimdall_server.crypto.certificate_files import write_atomically
from heimdall_server.domain.errors import ConfigurationError, KeyMismatchError

_BYTES_MAX = 64


def check_marker(marker: Path | None, keyring_id: str) -> None:
    """Refuse a keyring that isn't the data's.

    Args:
        marker: The file; None: the data names no keyring.
        keyring_id: Of the keyring that was found; empty: none was.

    Raises:
        KeyMismatchError: It is another one, or missing.
        ConfigurationError: The file can't be read.
    """
    if marker is None:
        return
    try:
        with marker.open("rb") as file:
            expected = file.read(_BYTES_MAX).decode(errors="replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError((f"{marker}: {error.strerror}",)) from error
    if expected != keyring_id:
        raise KeyMismatchError(f"ring {expected}", f"ring {keyring_id}" if keyring_id else "")


def write_marker(marker: Path | None, keyring_id: str) -> None:
    """Name the keyring, durably. Idempotent.

    Raises:
        ConfigurationError: The file can't be written.
    """
    if marker is None or marker.exists():
        return
    try:
        write_atomically(marker, f"{keyring_id}\n".encode(), mode=0o600)
    except OSError as error:
        raise ConfigurationError((f"{marker}: {error.strerror}",)) from error
