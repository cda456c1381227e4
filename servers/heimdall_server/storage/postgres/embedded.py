"""An embedded PostgreSQL: a child process that is started, watched, started again when it dies, and stopped.

It listens on 127.0.0.1 only, wants SCRAM of everybody, and has no sockets, no logging of statements or values. Nothing of
Heimdall's waits for it: whoever asks while it is away gets a `StoreError` in time, and everything that was committed is there when
it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from heimdall_server.domain.errors import StoreError
from heimdall_server.storage.postgres.config import STORE, PostgresConfig
from heimdall_server.storage.postgres.leftovers import end_leftovers
from heimdall_server.storage.postgres.place import PLACES, SUPERUSER, Place, prepare

LOG: Final = logging.getLogger(__name__)
HOST: Final = "127.0.0.1"
PASSWORD_FILE: Final = "postgres-superuser.password"  # noqa: S105 - a name
_FIRST_WAIT_S: Final = 0.1
_WAIT_S_MAX: Final = 15.0
_STEADY_S: Final = 60.0
"""One that ran this long is started again at once when it dies."""
_LEFTOVERS_S: Final = 10.0
_POLL_S: Final = 0.02
_QUIT_S: Final = 1.0
_LINE_BYTES_MAX: Final = 64 * 1024
_SERVER_CONNECTIONS: Final = 12
"""Beside the pool's: superuser's reserve, watchers, autovacuum's are counted elsewhere."""


@dataclass(frozen=True, slots=True)
class EmbeddedState:
    """What an operator wants to know."""

    running: bool
    pid: int
    restart_count: int
    problem: str = ""
    """Why it doesn't run."""


class EmbeddedPostgres:
    """The process and who watches it. Made by `start`."""

    def __init__(self, config: PostgresConfig, place: Place, password: str, *, durable: bool = True) -> None:
        self._config = config
        self._place = place
        self._password = password
        self._durable = durable
        self._port = config.port
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._problem = "it is being started"
        self._starts = 0
        self._stopping = False
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, config: PostgresConfig, *, data_dir: Path, keys_dir: Path, places: Path = PLACES, durable: bool = True
    ) -> EmbeddedPostgres:
        """Make its folder if need be, end what a killed server left, start it, and watch it from now on.

        It isn't waited for: see `wait_ready`.

        Args:
            config: Port, times, sizes.
            data_dir: Heimdall's, whose lock the caller holds.
            keys_dir: For the superuser's password.
            places: Where root keeps its data.
            durable: False: nothing is flushed to the disk. For tests of other things.

        Raises:
            ConfigurationError: It can't be run here.
            StoreError: Its folder can't be made, or a process that was left doesn't end.
        """
        place, password = await asyncio.to_thread(
            prepare, data_dir, keys_dir / PASSWORD_FILE, places=places, durable=durable
        )
        await asyncio.to_thread(_end_leftovers, place.data)
        embedded = cls(config, place, password, durable=durable)
        embedded._watcher = asyncio.create_task(embedded._watch(), name="postgres")
        return embedded

    @property
    def state(self) -> EmbeddedState:
        """How it is, now."""
        pid = self._process.pid if self._process is not None else 0
        running = self._ready.is_set()
        return EmbeddedState(running, pid, max(0, self._starts - 1), "" if running else self._problem)

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self._place.data

    def conninfo(self, *, user: str = SUPERUSER, password: str | None = None, database: str = "postgres") -> str:
        """How to connect to where it listens now; holds the password, so it isn't for logs.

        The other side must prove that it knows the password, too: whoever else took the port learns nothing.
        """
        return make_conninfo(
            host=HOST,
            port=self._port,
            user=user,
            password=self._password if password is None else password,
            dbname=database,
            require_auth="scram-sha-256",
            sslmode="disable",
            gssencmode="disable",
        )

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it answers.

        Raises:
            StoreError: It doesn't in time; it is still tried.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError as error:
            raise StoreError(STORE, f"not ready after {timeout_s:g} s: {self._problem}") from error

    async def stop(self) -> None:
        """Shut it down: cleanly in time, else by force, which loses nothing that was committed. Idempotent."""
        self._stopping = True
        if self._watcher is None:
            return
        process = self._process
        if process is not None:
            for number, wait_s in (
                (signal.SIGINT, self._config.stop_timeout_s),
                (signal.SIGQUIT, _QUIT_S),
                (signal.SIGKILL, _QUIT_S),
            ):
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await process.wait()
                    break
                LOG.warning("postgres doesn't stop", extra={"signal": number.name, "waited_s": wait_s})
        self._watcher.cancel()
        await asyncio.wait({self._watcher})
        self._watcher = None
        self._ready.clear()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begin_s = loop.time()
            try:
                await self._run_once()
            except (OSError, StoreError) as error:
                self._problem = str(error)
            finally:
                self._ready.clear()
                self._process = None
            failures = 0 if loop.time() - begin_s > _STEADY_S else failures + 1
            if self._stopping:
                return
            LOG.warning("postgres ended; it is started again", extra={"problem": self._problem, "failures": failures})
            if failures > 1:
                wait_s = min(_WAIT_S_MAX, _FIRST_WAIT_S * 2 ** min(failures, 16))
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not secrecy

    async def _run_once(self) -> None:
        """Start it, see it come up, and wait for its end."""
        if self._starts:
            # Processes of a postmaster that was killed keep the next one from starting for as long as they are there.
            await asyncio.to_thread(_end_leftovers, self._place.data)
        if not self._config.port and not (self._port and _is_free(self._port)):
            self._port = _free_port()
        self._starts += 1
        process = await asyncio.create_subprocess_exec(
            *self._place.launch.command("postgres", *self._arguments()),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            **self._place.launch.options(),
        )
        self._process = process
        said: list[str] = []
        relay = asyncio.create_task(_relay(process, said), name="postgres-log")
        knock = asyncio.create_task(self._knock(), name="postgres-ready")
        try:
            code = await process.wait()
            last = next((line for line in reversed(said) if line.startswith(("FATAL", "PANIC"))), "")
            self._problem = f"exit code {code}" + (f": {last}" if last else "")
        finally:
            for task in (relay, knock):
                task.cancel()
            await asyncio.wait({relay, knock})
            if process.returncode is None:  # we were cancelled
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _knock(self) -> None:
        """Connect until it answers; after a crash it may be busy with its log for a while."""
        while not self._ready.is_set():
            try:
                connection = await psycopg.AsyncConnection.connect(self.conninfo(), connect_timeout=2)
            except psycopg.OperationalError as error:
                self._problem = (
                    f"it refuses the password of {PASSWORD_FILE}: restore that file together with the keys"
                    if "password authentication failed" in str(error)
                    else "it doesn't answer yet"
                )
                await asyncio.sleep(_POLL_S)
                continue
            await connection.close()
            self._problem = ""
            self._ready.set()

    def _arguments(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": self._port,
            "unix_socket_directories": "",
            "shared_preload_libraries": "age",
            "max_connections": self._config.pool_size + _SERVER_CONNECTIONS,
            "shared_buffers": f"{self._config.shared_buffers_bytes // 1024}kB",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # Keys of the graph are random: behind each checkpoint nearly every page that is touched is logged whole.
            "max_wal_size": "4GB",
            "jit": "off",
            "logging_collector": "off",
            "log_line_prefix": "",
            # Statements and details can hold values, and so can what is wrong with a statement, which its sender is told.
            "log_min_messages": "log",
            "log_statement": "none",
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
            "log_parameter_max_length": 0,
            "log_parameter_max_length_on_error": 0,
            "log_checkpoints": "off",
            "fsync": "on" if self._durable else "off",
        }
        return ["-D", str(self._place.data), *(f"--{name}={value}" for name, value in settings.items())]


def _end_leftovers(data: Path) -> None:
    count = end_leftovers(data, timeout_s=_LEFTOVERS_S)
    if count:
        LOG.warning("ended processes of an earlier postgres", extra={"process_count": count})


async def _relay(process: asyncio.subprocess.Process, said: list[str]) -> None:
    """What it says goes to our log: problems as warnings, the rest for debugging."""
    stream = process.stderr
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # a line over the limit: the rest of it follows
            continue
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        said[:] = [*said[-19:], text]
        is_bad = text.startswith(("FATAL", "PANIC")) and "starting up" not in text
        LOG.log(logging.WARNING if is_bad else logging.DEBUG, "postgres says", extra={"line": text})


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
