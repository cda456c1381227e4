"""What goes on during a soak: a steady stream of records, and watches, queries and connections that come and go."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from heimdall_client import IngestOptions
from heimdall_client.errors import HeimdallError
from heimdall_client.sync_client import Client
from heimdall_client.watch_state import Rows
from tests.support.kill_load import lines
from tests.support.server_process import ServerProcess

BATCH: Final = 1_000
POOL: Final = 64
"""Batches that are made beforehand: making them must not be what is measured."""
WATCH_S: Final = (2.0, 8.0)
"""How long a watch lives."""
QUERY_PAUSE_S: Final = 0.5
GIVE_UP_S: Final = 20.0
"""A client that gets no answer for so long is a problem."""
STOP_S: Final = 30.0
WATCHERS: Final = 6
WATCHED: Final = (
    "severity:>=ERROR",
    "service:svc3",
    "body:someone | fields n, body",
    "* | stats count() by service",
    "n:5 OR n:77",
    "NOT service:svc1 AND request | fields n",
)
ASKED: Final = (
    "* | stats count() by service",
    "service:svc2 | stats count() by bucket(time, 10s)",
    "* | sort -time | limit 100",
    "n:4711 | fields n, body",
    "body:someone | stats count()",
)


class SoakLoad:
    """Everything that runs at once. Start it, look at `problems` now and then, stop it."""

    def __init__(self, server: ServerProcess, rows_per_s: int) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._server = server
        self._rows_per_s = rows_per_s
        self._stopping = threading.Event()
        self._ending = False
        self._pool = [lines(range(number * BATCH, (number + 1) * BATCH)) for number in range(POOL)]
        self._threads = [
            *(threading.Thread(target=self._guarded, args=(self._append, part), daemon=True) for part in range(2)),
            *(
                threading.Thread(target=self._guarded, args=(self._watch, part), daemon=True)
                for part in range(WATCHERS)
            ),
            threading.Thread(target=self._guarded, args=(self._ask, 0), daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stopping_soon(self) -> None:
        """From now on it is no problem that the server goes away; all goes on until then."""
        self._ending = True

    def stop(self) -> None:
        """End; the server may be gone already."""
        self._stopping.set()
        deadline_s = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _guarded(self, work: Callable[[int], None], part: int) -> None:
        try:
            work(part)
        except HeimdallError as error:
            if not self._ending:
                self.problems.append(f"{work.__name__}: {error}")

    def _append(self, part: int) -> None:
        """Half of the records, evenly."""
        started_s, written = time.monotonic(), 0
        options = IngestOptions(chunk_bytes=256 * 1024, give_up_after_s=GIVE_UP_S)
        with (
            self._server.client() as client,
            client.ingester(f"soak/{part}", format="ndjson", options=options) as ingester,
        ):
            while not self._stopping.is_set():
                ingester.write(self._pool[written // BATCH % POOL])
                written += BATCH
                self.counts["records"] += BATCH
                ahead_s = started_s + 2 * written / self._rows_per_s - time.monotonic()
                self._stopping.wait(max(0.0, ahead_s))

    def _watch(self, part: int) -> None:
        """One watch after another, each on a connection of its own."""
        chance = random.Random(part)
        while not self._stopping.is_set():
            with self._server.client() as client:
                end_s = time.monotonic() + chance.uniform(*WATCH_S)
                for event in client.watch(chance.choice(WATCHED), every_s=0.5, give_up_after_s=GIVE_UP_S):
                    if isinstance(event, Rows):
                        self.counts["rows watched"] += len(event.rows)
                    if time.monotonic() > end_s or self._stopping.is_set():
                        break
            self.counts["watches"] += 1

    def _ask(self, part: int) -> None:
        """One question after another, on a connection that is changed now and then."""
        chance = random.Random(100 + part)
        while not self._stopping.is_set():
            with self._server.client() as client:
                for _ in range(20):
                    self._ask_once(client, chance.choice(ASKED))
                    if self._stopping.wait(QUERY_PAUSE_S):
                        return

    def _ask_once(self, client: Client, question: str) -> None:
        self.counts["rows found"] += sum(1 for _ in client.search(question, since="5m", limit=1000))
        self.counts["queries"] += 1
