"""The server's process on this machine: its pid file, whether it runs, how it ends. Standard library only.

The server inherits an open, locked pid file: the lock lives exactly as long as the process, so a stale file (kill -9,
power cut, a pid that somebody else has now) is never taken for a running server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DRAIN_S: Final = 30.0
KILL_S: Final = 5.0
POLL_S: Final = 0.05
WIDTH: Final = 21


class LocalError(Exception):
    """It can't be done; the text says why and what to do."""


def say(label: str, text: str = "") -> None:
    """Print one line, labels in a column of their own."""
    print(f"{label:<{WIDTH}}{text}".rstrip(), flush=True)


def find_data_dir() -> Path:
    """Where the server keeps everything, by the rules of its configuration."""
    if "HEIMDALL_DATA_DIR" in os.environ:
        return Path(os.environ["HEIMDALL_DATA_DIR"])
    file = Path(os.environ.get("HEIMDALL_CONFIG", ".heimdall/heimdall.toml"))
    try:
        return Path(str(tomllib.loads(file.read_text()).get("data_dir", ".heimdall")))
    except (OSError, ValueError):
        return Path(".heimdall")


class PidFile:
    """The pid file, whose lock is the truth about whether the server runs."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "server.pid"

    def running(self) -> int | None:
        """The server's process; None: it doesn't run.

        Raises:
            LocalError: It runs, and the file doesn't name it.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor) as file:
            if not _is_locked(descriptor):
                return None
            text = file.read().strip()
            if not text.isdecimal() or int(text) <= 1:  # kill(0) would be our own group
                msg = f"a process holds {shown(self.path, folder=False)}, and the file doesn't name it: stop it by hand"
                raise LocalError(msg)
            return int(text)

    def start(self, command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a server that holds the lock until it ends.

        Raises:
            LocalError: Another one was faster.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with log.open("ab") as output:
                process = subprocess.Popen(  # noqa: S603 - our own server
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=(descriptor,),
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{process.pid}\n".encode(), 0)
        except BlockingIOError as error:
            msg = "another server is being started here; try again"
            raise LocalError(msg) from error
        finally:
            os.close(descriptor)
        return process


def _is_locked(descriptor: int) -> bool:
    """Whether another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


@contextlib.contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """One `up`, `down` or `clean` at a time; a second one waits."""
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def stop(data_dir: Path, *, only_if_running: bool = False) -> None:
    """End the server: by SIGTERM, which lets it drain; by a second one, which doesn't; at last by SIGKILL.

    Args:
        data_dir: Its folder.
        only_if_running: Say nothing if there is none.

    Raises:
        LocalError: It doesn't end, or a server that was started otherwise has the data.
    """
    pid_file = PidFile(data_dir)
    pid = pid_file.running()
    if pid is None:
        _check_unused(data_dir)
        if not only_if_running:
            say("Heimdall is down", "it didn't run")
        return
    begin_s = time.monotonic()
    how = "drained"
    for number, wait_s in ((signal.SIGTERM, DRAIN_S), (signal.SIGTERM, KILL_S), (signal.SIGKILL, KILL_S)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _ends(pid_file, wait_s):
            say("Heimdall is down", f"{how} in {time.monotonic() - begin_s:.1f} s; the data stays in {shown(data_dir)}")
            return
        how = "cut off"
        say(
            "still draining", f"after {time.monotonic() - begin_s:.0f} s: what is acknowledged is safe, the rest is cut"
        )
    msg = f"process {pid} doesn't end; it waits for the disk or the kernel"
    raise LocalError(msg)


def _ends(pid_file: PidFile, wait_s: float) -> bool:
    deadline_s = time.monotonic() + wait_s
    while pid_file.running() is not None:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _check_unused(data_dir: Path) -> None:
    """See that no server that was started otherwise has the journal.

    Raises:
        LocalError: One has.
    """
    try:
        descriptor = os.open(data_dir / "journal" / "LOCK", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    with os.fdopen(descriptor) as file:
        if _is_locked(descriptor):
            owner = file.read(32).strip()
            msg = f"process {owner} has {shown(data_dir)}, and `make up` didn't start it: stop it where it was started"
            raise LocalError(msg)


def shown(path: Path, *, folder: bool = True) -> str:
    """A path for people: relative where that is shorter."""
    absolute = path if path.is_absolute() else Path.cwd() / path
    inside = absolute.is_relative_to(Path.cwd()) and absolute != Path.cwd()
    return f"{absolute.relative_to(Path.cwd()) if inside else absolute}{'/' if folder else ''}"
