"""The `heimdall` command's questions against a real server."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pyarrow as pa

from heimdall_client.cli.exits import ExitCode
from tests.support import cli
from tests.support.cli import invoke_on as invoke
from tests.support.cli import query_on as query
from tests.support.pki import Pki
from tests.support.server_process import ServerProcess

RECORD = re.compile(r"\d+-\d+-\d+$")


def test_status_shows_that_everything_serves(server: ServerProcess) -> None:
    outcome = invoke(server, "status")
    assert outcome.code == ExitCode.OK
    for text in (server.address, "IngestService", "QueryService", "AdminService", "chdb", "journal", "warm", "serving"):
        assert text in outcome.out
    status = invoke(server, "status", "-o", "json").json()
    assert status["journal"]["health"] == "serving"
    assert isinstance(status["journal"]["head"]["shards"]["0"], int)
    assert {store["engine"] for store in status["stores"]} == {"chdb"}


def test_datasets_are_listed(server: ServerProcess, logs: Path) -> None:
    assert logs.exists()
    assert [line.split()[0] for line in invoke(server, "datasets").lines()] == ["dataset", "dumps", "logs", "samples"]
    datasets = {row["dataset_id"]: row for row in invoke(server, "datasets", "-o", "json").rows()}
    assert datasets["logs"]["retention_duration"] == 30 * 86400


def test_rows_are_log_lines_with_ids(server: ServerProcess, logs: Path, word: str) -> None:
    assert logs.exists()
    outcome = query(server, f"{word} AND severity:>=ERROR")
    assert len(outcome.lines()) == 5
    assert all(" ERROR svc" in line and RECORD.search(line) for line in outcome.lines())
    assert "\x1b" not in outcome.out
    assert "may be more" in query(server, word, "-n", "4").err
    assert "n=3" in query(server, f"{word} AND n:3", "--full").out


def test_aggregates_are_a_table(server: ServerProcess, logs: Path, word: str) -> None:
    assert logs.exists()
    lines = query(server, f"{word} | stats count() by service | sort service").lines()
    assert [line.split() for line in lines] == [["service", "count"], ["svc0", "4"], ["svc1", "3"], ["svc2", "3"]]


def test_rows_come_as_json_csv_and_arrow(server: ServerProcess, logs: Path, word: str) -> None:
    assert logs.exists()
    rows = query(server, word, "--order", "oldest", "-o", "json").rows()
    assert [row["attributes_number"]["n"] for row in rows] == list(range(10))
    read = list(csv.DictReader(io.StringIO(query(server, word, "--order", "oldest", "-o", "csv").out)))
    assert [row["body"] for row in read] == [f"line {n} {word}" for n in range(10)]
    assert json.loads(read[0]["attributes"]) == {"tag.a": "b,c"}
    table = pa.ipc.open_stream(query(server, word, "-o", "arrow").out_bytes).read_all()
    assert table.num_rows == 10
    empty = pa.ipc.open_stream(query(server, f"{word}x", "-o", "arrow").out_bytes).read_all()
    assert (empty.num_rows, "body" in empty.column_names) == (0, True)


def test_sql_is_understood(server: ServerProcess, logs: Path, word: str) -> None:
    assert logs.exists()
    statement = f"SELECT service, count(*) AS c FROM logs WHERE body LIKE '%{word}%' GROUP BY service ORDER BY service"  # noqa: S608
    assert [row["c"] for row in query(server, "--sql", statement, "-o", "json").rows()] == [4, 3, 3]


def test_a_wrong_query_is_pointed_at(server: ServerProcess) -> None:
    for command in ("query", "explain", "watch"):
        outcome = invoke(server, command, "severity:>=ERROR | stas count()")
        assert outcome.code == ExitCode.USAGE
        error, text, caret = outcome.err.splitlines()
        assert "did you mean 'stats'" in error
        assert text[caret.index("^") :].startswith("stas")
    assert "request " in invoke(server, "query", "a | b", "-v").err


def test_explain_names_the_path(server: ServerProcess) -> None:
    question = "severity:>=ERROR | stats count() by service"
    outcome = invoke(server, "explain", question, "--analyze", "-v")
    assert outcome.code == ExitCode.OK
    for label in ("query", "path", "because", "estimated", "statement", "actual", "fresh"):
        assert any(line.startswith(label) for line in outcome.lines())
    assert invoke(server, "explain", question, "-o", "json").json()["plans"][0]["path"] == "rollup"


def test_fields_and_their_values_are_listed(server: ServerProcess, logs: Path, word: str) -> None:
    assert logs.exists()
    query(server, word)
    names = [row["name"] for row in invoke(server, "fields", "-o", "json").rows()]
    assert {"service", "body", "n"} <= set(names)
    assert invoke(server, "fields", "-n", "3").lines()[0].split() == ["field", "type", "coverage", "records"]
    values = invoke(server, "fields", "service", "--where", word, "-o", "json").json()
    assert {value["value"]: value["record_count"] for value in values["values"]} == {"svc0": 4, "svc1": 3, "svc2": 3}
    assert invoke(server, "fields", "service", "--where", word).lines()[1].split()[:3] == ["svc0", "4", "40%"]


def test_context_shows_the_lines_around_a_record_of_its_source(server: ServerProcess, logs: Path, word: str) -> None:
    invoke(server, "ingest", "-", stdin=f'{{"msg":"stranger {word}"}}\n'.encode())
    (line,) = query(server, f"{word} AND n:5").lines()
    record = line.split()[-1]
    outcome = invoke(server, "context", record, "-n", "2")
    assert outcome.code == ExitCode.OK
    assert [line.startswith(">") for line in outcome.lines()] == [False, False, True, False, False]
    assert re.findall(r"line (\d)", outcome.out) == ["3", "4", "5", "6", "7"]
    assert str(logs) in outcome.err
    rows = invoke(server, "context", record, "-B", "9", "-A", "0", "-o", "json").rows()
    assert [row["body"].split()[1] for row in rows] == list("012345")
    assert [row["hit"] for row in rows] == [False] * 5 + [True]
    nothing = invoke(server, "context", "0-999999-0")
    assert nothing.code == ExitCode.FAILED
    assert "there is no record" in nothing.err


def test_a_client_without_the_permission_is_told_which(server: ServerProcess, tmp_path: Path) -> None:
    config = tmp_path / "writer.toml"
    config.write_text(server.client_file.read_text().replace("/admin", "/writer"))
    outcome = cli.invoke("status", config=config)
    assert outcome.code == ExitCode.FAILED
    assert "admin.status" in outcome.err


def test_certificates_of_another_authority_are_told(server: ServerProcess, tmp_path: Path) -> None:
    stranger = Pki(tmp_path / "pki")
    path = stranger.write("admin", stranger.leaf("admin"))
    key = path.with_name("admin-key.pem")
    wrong_ca = cli.invoke("status", "--ca-file", stranger.ca_file, config=server.client_file)
    assert wrong_ca.code == ExitCode.FAILED
    assert "can't be verified against ca_file" in wrong_ca.err
    wrong_client = cli.invoke("status", "--cert-file", path, "--key-file", key, config=server.client_file)
    assert wrong_client.code == ExitCode.FAILED
    assert "heimdall certs issue" in wrong_client.err
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("nothing")
    unreadable = cli.invoke("status", "--ca-file", garbage, config=server.client_file)
    assert unreadable.code == ExitCode.USAGE
    assert "can't be read as PEM" in unreadable.err
