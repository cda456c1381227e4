"""As whom the programs of PostgreSQL run: as ourselves, or, since it refuses root, as an account that owns nothing else.

| we are | its data is | it runs as |
|---|---|---|
| not root | new, or ours | ourselves |
| root | new | `postgres`, else `nobody`, from the wheel or from a copy that the account can reach |
| root | of another account | that one |
| root | root's, or no account will do | root without its powers, which it sees as uid 1000 (a user namespace) |

Every way is tried with `initdb --version` before it is taken: what fails later fails with a misleading sentence about libpq.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.storage.postgres.binaries import Binaries

ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}
"""All that a program of PostgreSQL sees of ours."""
ACCOUNTS: Final = ("postgres", "nobody")
_NAMESPACE: Final = ("--user", "--map-user=1000", "--map-group=1000")
_TRIAL_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a program runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A way to run the programs."""

    binaries: Binaries
    account: Account | None = None
    """None: as we are."""
    prefix: tuple[str, ...] = field(default=())
    """A program that runs the program."""

    @property
    def owner(self) -> Account:
        """Who its files must belong to, as we see it."""
        return self.account or Account(os.geteuid(), os.getegid())

    @property
    def is_own_account(self) -> bool:
        """Whether it runs as somebody else than we do, who can't go where we keep things."""
        return self.account is not None

    def command(self, program: str, *arguments: str) -> list[str]:
        """What to execute."""
        return [*self.prefix, str(self.binaries.bin_dir / program), *arguments]

    def options(self) -> dict[str, Any]:
        """How to execute it: for `subprocess` and for asyncio's."""
        options: dict[str, Any] = {
            "cwd": "/",
            "env": dict(ENVIRONMENT),
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,  # what a terminal sends to us isn't meant for it
        }
        if self.account is not None:
            options |= {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        return options

    def problem(self) -> str:
        """Why it can't be done this way; empty: it can. Blocks."""
        try:
            done = subprocess.run(  # noqa: S603 - a program of the wheel
                self.command("initdb", "--version"),
                capture_output=True,
                text=True,
                timeout=_TRIAL_S,
                check=False,
                **self.options(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


def choose(binaries: Binaries, *, owner_uid: int | None, copies: Path) -> Launch:
    """Find a way that works. Blocks.

    Args:
        binaries: The wheel's.
        owner_uid: Whom the data belongs to; None: there is none yet.
        copies: Folder for a copy of the programs, if an account needs one.

    Raises:
        ConfigurationError: There is none; says what was tried.
    """
    if os.geteuid() != 0 and owner_uid not in (None, os.geteuid()):
        problem = f"postgres: its data belongs to uid {owner_uid}; run the server as that user, or as root"
        raise ConfigurationError((problem,))
    tried = []
    for launch in _ways(binaries, owner_uid, copies):
        problem = launch.problem()
        if not problem:
            return launch
        tried.append(f"as uid {launch.owner.uid} from {launch.binaries.bin_dir}: {problem}")
    problems = "; ".join(tried) or f"there is no account {' or '.join(ACCOUNTS)}"
    hint = "make an account named postgres, or name a server by postgres.dsn_file"
    raise ConfigurationError((f"postgres: the embedded PostgreSQL can't run ({problems}); {hint}",))


def _ways(binaries: Binaries, owner_uid: int | None, copies: Path) -> Iterator[Launch]:
    if os.geteuid() != 0:
        yield Launch(binaries)
        return
    for account in _accounts(owner_uid):
        yield Launch(binaries, account)
        try:
            copies.mkdir(mode=0o755, parents=True, exist_ok=True)
            copy = binaries.copied_to(copies)
        except OSError:
            continue  # the next way needs no copy
        yield Launch(copy, account)
    unshare = shutil.which("unshare", path=ENVIRONMENT["PATH"])
    if unshare is not None and not owner_uid:
        yield Launch(binaries, prefix=(unshare, *_NAMESPACE))


def _accounts(owner_uid: int | None) -> Iterator[Account]:
    if owner_uid is not None:
        try:
            found = pwd.getpwuid(owner_uid)
        except KeyError:
            found = None
        if owner_uid:
            yield Account(owner_uid, found.pw_gid if found is not None else owner_uid)
        return
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid:
            yield Account(entry.pw_uid, entry.pw_gid)
