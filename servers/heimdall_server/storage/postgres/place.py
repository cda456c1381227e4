"""Where the embedded PostgreSQL keeps its data, and how that is made.

Ourselves: `postgres/data` in the data folder. As root, whose data folder no other account can enter: a folder below
`/var/lib/heimdall`, named in `postgres/place`, which in turn names the data folder in `data_dir`. The two names belong together: a
data folder that was moved keeps its database; a copy of one doesn't take the original's, it gets one of its own, and the vault
says what is missing in it; `make clean` deletes the two together.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import ConfigurationError, StoreError
from heimdall_server.storage.postgres.binaries import MAJOR, Binaries
from heimdall_server.storage.postgres.config import STORE
from heimdall_server.storage.postgres.launch import Launch, choose
from heimdall_server.storage.postgres.passwords import load_or_mint

PLACES: Final = Path("/var/lib/heimdall")
SUPERUSER: Final = "heimdall"
_INITDB_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """A data folder of PostgreSQL's and who may use it."""

    data: Path
    """What `-D` says."""
    launch: Launch


def prepare(data_dir: Path, password_file: Path, *, places: Path = PLACES, durable: bool = True) -> tuple[Place, str]:
    """Find the data folder or make it. Blocks: a second the first time.

    A folder in the making lies beside it under another name, so one that is there is whole.

    Args:
        data_dir: Heimdall's.
        password_file: Of the superuser's password, which is made together with the data and never again.
        places: Where root makes it.
        durable: False: don't wait for the disk. For tests.

    Returns:
        The folder, and the superuser's password.

    Raises:
        ConfigurationError: It can't be had here; says why and what to do.
        StoreError: The disk failed, or `initdb` did.
    """
    try:
        data_dir = data_dir.resolve()  # the programs are started in another folder
        ours = data_dir / "postgres"
        ours.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = _existing(data_dir, ours)
        launch = choose(Binaries.find(), owner_uid=None if data is None else data.stat().st_uid, copies=places)
        password = load_or_mint(password_file, mint=data is None)
        if data is None:
            data = _new_place(data_dir, ours, places) if launch.is_own_account else ours / "data"
            _make(data, launch, password, durable=durable)
        _check_version(data)
    except OSError as error:
        raise StoreError(STORE, f"its folder: {error}") from error
    return Place(data, launch), password


def _existing(data_dir: Path, ours: Path) -> Path | None:
    if (ours / "data").is_dir():
        return ours / "data"
    try:
        folder = Path((ours / "place").read_text().strip())
    except FileNotFoundError:
        return None
    owner_file = folder / "data_dir"
    try:
        owner = Path(owner_file.read_text().strip())
    except FileNotFoundError:
        if os.geteuid() != 0 or folder.exists():
            raise
        problem = f"postgres: {folder} is gone; restore it, or remove {ours / 'place'} to begin with an empty database"
        raise ConfigurationError((problem,)) from None
    if owner != data_dir:
        if _points_at(owner, folder):
            (ours / "place").unlink()  # a copy of a folder that is still there
            return None
        owner_file.write_text(f"{data_dir}\n")
    return folder / "data" if (folder / "data").is_dir() else None


def _points_at(data_dir: Path, folder: Path) -> bool:
    try:
        return Path((data_dir / "postgres" / "place").read_text().strip()) == folder
    except OSError:
        return False


def _new_place(data_dir: Path, ours: Path, places: Path) -> Path:
    """Make a folder for the data, or find the one that a start before this one didn't get to fill."""
    with contextlib.suppress(FileNotFoundError):
        folder = Path((ours / "place").read_text().strip())
        return folder / "data"
    places.mkdir(mode=0o755, parents=True, exist_ok=True)
    words = re.sub(r"[^a-z0-9]+", "-", "-".join(data_dir.parts[-2:]).lower()).strip("-")[-40:].strip("-")
    folder = places / f"{words or 'data'}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    for made in (places, folder):
        made.chmod(0o755)  # whatever the umask is: the account must get through
    (folder / "data_dir").write_text(f"{data_dir}\n")
    draft = ours / ".place.draft"
    draft.write_text(f"{folder}\n")
    draft.rename(ours / "place")
    return folder / "data"


def _make(data: Path, launch: Launch, superuser_password: str, *, durable: bool) -> None:
    draft, password_file = data.with_name("data.draft"), data.with_name("password.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    os.chown(draft, launch.owner.uid, launch.owner.gid)
    password_file.unlink(missing_ok=True)
    descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, superuser_password.encode() + b"\n")
        os.fchown(descriptor, launch.owner.uid, launch.owner.gid)
        done = subprocess.run(  # noqa: S603 - a program of the wheel
            launch.command(
                "initdb",
                f"--pgdata={draft}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
                *(() if durable else ("--no-sync",)),
            ),
            capture_output=True,
            text=True,
            timeout=_INITDB_S,
            check=False,
            **launch.options(),
        )
    except subprocess.TimeoutExpired as error:
        raise StoreError(STORE, f"initdb takes longer than {_INITDB_S:g} s") from error
    finally:
        os.close(descriptor)
        password_file.unlink()
    if done.returncode != 0:
        shutil.rmtree(draft, ignore_errors=True)
        raise StoreError(STORE, f"initdb ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    draft.rename(data)


def _check_version(data: Path) -> None:
    found = (data / "PG_VERSION").read_text().strip()
    if found != MAJOR:
        problem = (
            f"postgres: {data} was made by PostgreSQL {found}, this server brings {MAJOR}; upgrade it with pg_upgrade or "
            "by dump and restore"
        )
        raise ConfigurationError((problem,))
