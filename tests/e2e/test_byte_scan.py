"""No planted personal value is anywhere after a whole server took it in through every door, with errors and crashes on the way.

Looked through: every file of the data folder (keys, journal, chDB, audit log, operations) and of PostgreSQL (heap, WAL; vault and graph),
journal frames decrypted, blocks decompressed, every table read back as text, the log, metrics, and each frame that left for a search, a
watch, an explanation or a refusal. That the scanner sees a value in each of these places, in every form, is proven first where nothing is
protected.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from heimdall.privacy.v1 import operation_pb2
from heimdall_client.sync_client import Client
from tests.support import opened_stores as stores
from tests.support.byte_scan import Finding, Scanner, forms
from tests.support.frames_out import ENCODINGS, OWN_WORDS, QueryPort
from tests.support.planted import Planted, classes_with_rules
from tests.support.planted_doors import Doors
from tests.support.planted_graph import GraphDoors
from tests.support.planted_questions import Questions
from tests.support.server_process import ServerProcess

KEEP: Final = [{"action": "keep"}]
PROTECT: Final = [*({"action": "mask", "class": name} for name in ("cookie", "jwt", "secret")), {"action": "tokenise"}]
NEVER_STORED: Final = (
    "bulk: broken",
    "bulk: update",
    "file: format option",
    "http: address",
    "loki: broken",
    "otlp/json: broken",
)
"""Requests that are refused whole: nothing is kept of them."""
ASKED: Final = (
    "bulk: index",
    "csv: header",
    "explain:",
    "file:",
    "graph:",
    "privacy:",
    "query:",
    "stix: refused",
    "watch:",
)
"""What a caller may be told again in an answer to him, if it isn't a refusal: how he calls a source, what he asks for."""
IN_JOURNAL_ONLY: Final = ("broken", "dead letter", "not UTF-8", "file: dump")
WAIT_S: Final = 60.0
TOLD_MAX: Final = 12


@contextmanager
def running(folder: Path, rules: list[dict[str, str]]) -> Iterator[ServerProcess]:
    """A server with a policy, all doors open; PostgreSQL's data is removed behind it."""
    environment = {
        "HEIMDALL_SERVICES": '["ingest","query","admin","privacy","graph"]',
        "HEIMDALL_PRIVACY": json.dumps({"thorough": True, "rules": rules}),
        "HEIMDALL_SYSLOG__TLS_ADDRESS": "127.0.0.1:0",
        "HEIMDALL_GRAPH": json.dumps({"active_share": 1.0, "busy_share": 1.0}),
        "HEIMDALL_WARM__ENCRYPTED": "false",  # so that the scan looks into the parts themselves
        "HEIMDALL_JOURNAL__SEGMENT_BYTES": str(4 << 20),
        "HEIMDALL_LOG_LEVEL": "DEBUG",
    }
    server = ServerProcess(folder, environment=environment, metrics=True)
    try:
        with server:
            yield server
    finally:
        stores.remove_postgres(server.data_dir)


def asked(port: QueryPort) -> list[stores.Place]:
    """All records, in every encoding, and what describes them."""
    found = [("a search", port.search("*", encoding=encoding)) for encoding in ENCODINGS]
    return [*found, ("the fields", port.fields()), ("services", port.field_values("service"))]


def inside(server: ServerProcess, copy: Path) -> list[stores.Place]:
    """What a server that was stopped holds, in plain."""
    warm = server.data_dir / "warm"
    return [
        *stores.chdb_tables(warm, copy),
        *stores.clickhouse_blocks(warm),
        *stores.journal_frames(server.data_dir, copy),
        ("the log", [server.log.read_bytes()]),
    ]


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Ask again until it holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def told(findings: list[Finding]) -> str:
    """For a failure: by door and place, in which form it was found where. Values aren't named."""
    seen: dict[str, set[str]] = {}
    for one in findings:
        door, place, kind = one.label.rsplit(" #", 1)[0].rsplit(": ", 2)
        where = re.sub("[0-9a-f]*[0-9][-0-9a-f_.]*", "…", one.place)
        seen.setdefault(f"{door}: {place}", set()).add(f"{kind}, {one.form}, in {where}")
    lines = []
    for place, found in sorted(seen.items()):
        lines += [place, *(f"    {line}" for line in sorted(found)[:TOLD_MAX])]
    return "\n".join(lines)


def test_every_class_that_has_rules_is_planted() -> None:
    planted = Planted()
    assert {value.data_class for value in planted.take_all("here")} == classes_with_rules()


@pytest.mark.timeout(300)
def test_the_scanner_finds_every_value_and_form_where_nothing_is_protected(tmp_path: Path) -> None:
    planted = Planted(seed=1)
    with running(tmp_path, KEEP) as server:
        with server.client() as client, QueryPort(server) as port:
            watch = port.watch("*")
            doors = Doors(server, client, planted, tmp_path)
            doors.feed()
            needles = planted.needles()
            shown = plant_forms(client, needles)
            wait_for(lambda: client.search(f'"{shown}"', consistent=True).to_arrow().num_rows, "the last record")
            frames: dict[str, list[stores.Place]] = {"search": asked(port)}
            wait_for(lambda: any(shown.encode() in message for message in watch.heard), "the last record in the watch")
            frames["watch"] = [("the watch", watch.close())]
            with stores.postgres_connection(server.data_dir) as connection:
                connection.execute("CREATE TABLE unprotected (value text)")
                connection.execute("INSERT INTO unprotected SELECT unnest(%s::text[])", [list(needles.values())])
            frames["postgres"] = stores.postgres_tables(server.data_dir)
        server.stop()
        scanner = Scanner(needles)
        warm = server.data_dir / "warm"
        frames["journal"] = stores.journal_frames(server.data_dir, tmp_path / "copy")
        frames["tables"] = stores.chdb_tables(warm, tmp_path / "copy")
        frames["blocks"] = list(stores.clickhouse_blocks(warm))
        found = {name: scanner.scan_places(places) for name, places in frames.items()}
        folder = stores.postgres_folder(server.data_dir)
        found["heap"] = scanner.scan_files(folder / "base")
        found["log"] = scanner.scan_places(stores.postgres_log(folder))
    every = set(needles)
    stored = {label for label in every if not label.startswith(NEVER_STORED)}
    records = {label for label in stored if not any(part in label for part in IN_JOURNAL_ONLY)}
    for name in ("postgres", "heap", "log"):
        assert missing(every, found[name], "plain") == [], name
    assert missing(stored, found["journal"]) == []
    for name in ("tables", "blocks", "search", "watch"):
        assert missing(records, found[name]) == [], name
    wanted = {f"{label} as {form}" for label, form in scanner.meanings}
    for name in ("journal", "tables", "blocks", "search"):
        seen = [Finding(one.place, one.offset, f"{one.label} as {one.form}", one.form) for one in found[name]]
        assert missing(wanted, seen) == [], name


def missing(labels: set[str], findings: list[Finding], form: str = "") -> list[str]:
    """Labels of which nothing was found."""
    return sorted(labels - {one.label for one in findings if form in ("", one.form)})


def plant_forms(client: Client, needles: dict[str, str]) -> str:
    """Take in every value in every form; returns a word of the last record."""
    word = f"w{uuid.uuid4().hex}"
    with client.ingester("forms", format="ndjson") as ingester:
        for needle in needles.values():
            notes = {f"f{n}": form.decode("latin-1") for n, form in enumerate(forms(needle).values())}
            ingester.write(json.dumps({"message": "of forms", **notes}, ensure_ascii=False).encode() + b"\n")
        ingester.write(json.dumps({"message": word}).encode() + b"\n")
        ingester.finish(timeout_s=30)
    return word


@pytest.mark.timeout(300)
def test_no_planted_value_is_anywhere_after_errors_and_crashes(tmp_path: Path) -> None:
    planted = Planted(seed=2)
    heard: list[stores.Place] = []
    with running(tmp_path, PROTECT) as server:
        with server.client() as client, QueryPort(server) as port:
            watch = port.watch("*", "* | stats count() by service, host, source")
            doors = Doors(server, client, planted, tmp_path)
            doors.feed()
            stop_postgres(server)
            doors.again("while PostgreSQL is away")
            server.kill()
            heard += [("the first watch", watch.close())]
        server.start()
        with server.client() as client, QueryPort(server) as port:
            watch = port.watch("*")
            doors.client = client
            doors.again("after a crash")
            heard += asked(port)
            questions = Questions(client, port, planted)
            questions.ask()
            assert client.privacy_policy().policy.version > 1  # one of those that were tried is in force
            graph = GraphDoors(client, planted)
            graph.feed()
            for operation in client.operations():
                ended(client, operation.operation_id)
            heard += [*asked(port), ("the second watch", watch.close()), *questions.heard, *doors.heard, *graph.heard]
            heard += [("dead letters", [repr(client.list_dead_letters(limit=10_000)).encode()])]
            heard += [("audit entries", [repr(list(client.audit_entries())).encode()])]
            heard += [("operations", [repr(client.operations()).encode()])]
            wait_for(lambda: applied(client), "what follows the journal")
            heard += [("metrics", [stores.metrics_text(server.metrics_address)])]
            heard += stores.postgres_tables(server.data_dir)
        server.stop()
        scanner = Scanner(planted.needles())
        found = scanner.scan_places([*heard, *inside(server, tmp_path / "copy")])
        found += scanner.scan_files(server.data_dir)
        folder = stores.postgres_folder(server.data_dir)
        found += scanner.scan_files(folder)
        found += scanner.scan_places(stores.postgres_log(folder))
    leaks = [one for one in found if not one.place.startswith(OWN_WORDS) or not one.label.startswith(ASKED)]
    assert not leaks, told(leaks)


def applied(client: Client) -> bool:
    """Whether the vault and the graph hold all that came in."""
    return not any(one.lag_frame_count for one in client.status().projections if one.name in ("vault", "graph"))


def stop_postgres(server: ServerProcess) -> None:
    """End it at once; the server starts it again after a while."""
    pid = int((stores.postgres_folder(server.data_dir) / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGQUIT)


def ended(client: Client, operation_id: str) -> None:
    """Follow an operation until what it concerns is inaccessible, or to its end."""
    for operation in client.watch_operation(operation_id):
        if operation.state != operation_pb2.Operation.STATE_RUNNING or operation.HasField("inaccessible_time"):
            return
