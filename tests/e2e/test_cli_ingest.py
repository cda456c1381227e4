"""`heimdall ingest`, `dead-letters` and `samples` against a real server."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from heimdall_client.cli.exits import ExitCode
from tests.support.cli import invoke_on as invoke
from tests.support.cli import query_on as query
from tests.support.server_process import ServerProcess


def test_many_files_go_in_at_once_and_a_bad_one_keeps_none_from_it(
    server: ServerProcess, tmp_path: Path, word: str
) -> None:
    (tmp_path / "app.log").write_text(f"2024-05-01T10:00:00Z INFO one {word}\n  at a stack\n")
    (tmp_path / "access.csv").write_text(f"time,level,msg\n2024-05-01T10:00:00Z,warn,two {word}\n")
    (tmp_path / "dump.json").write_text(json.dumps([{"msg": f"three {word}"}, {"msg": f"four {word}"}], indent=1))
    (tmp_path / "logs.ndjson.gz").write_bytes(gzip.compress(b'{"msg":"five %s"}\n' % word.encode()))
    (tmp_path / "empty.log").touch()
    files = [tmp_path / name for name in ("app.log", "access.csv", "dump.json", "logs.ndjson.gz", "empty.log")]
    outcome = invoke(server, "ingest", *files, "-", tmp_path, tmp_path / "none.log", stdin=b'{"msg":"six"}\n')
    assert outcome.code == ExitCode.FAILED
    assert "6 records of 6 files acknowledged" in outcome.out
    assert f"{tmp_path}: it is a directory" in outcome.err
    assert "none.log: it doesn't exist" in outcome.err
    counted = invoke(server, "ingest", *files, "-o", "json")
    assert counted.code == ExitCode.OK
    assert counted.json()["accepted_count"] == 0
    assert "nothing new" in invoke(server, "ingest", files[0]).out


def test_records_that_cannot_be_decoded_are_told_and_listed(server: ServerProcess, tmp_path: Path, word: str) -> None:
    path = tmp_path / "bad.ndjson"
    path.write_text(f'{{"msg":"a {word}"}}\nnot json\n{{"msg":"b"}}\n')
    outcome = invoke(server, "ingest", path, "--source", word)
    assert outcome.code == ExitCode.REJECTED
    assert "2 records acknowledged" in outcome.out
    assert "1 rejected" in outcome.out
    assert f"heimdall dead-letters list --source {word}" in outcome.err
    assert "not json\n" not in outcome.err

    listed = invoke(server, "dead-letters", "list", "--source", word)
    assert listed.code == ExitCode.OK
    assert word in listed.out
    (letter,) = invoke(server, "dead-letters", "list", "--source", word, "-o", "json").rows()
    again = invoke(server, "dead-letters", "retry", letter["dead_letter_id"])
    assert again.code == ExitCode.REJECTED
    assert "0 of 1 dead letter decoded" in again.out
    text = invoke(server, "dead-letters", "retry", "--all", "--source", word, "--format", "text", "-o", "json")
    assert text.code == ExitCode.OK
    assert text.rows()[0]["accepted_count"] == 1


def test_a_file_that_grew_goes_on_where_it_ended(server: ServerProcess, logs: Path) -> None:
    with logs.open("a") as file:
        file.write('{"msg":"later"}\n')
    result = invoke(server, "ingest", logs, "-o", "json").json()
    assert result["accepted_count"] == 1
    assert result["files"][0]["start_offset"] > 0


def test_another_file_under_the_same_name_is_another_source(server: ServerProcess, logs: Path, word: str) -> None:
    logs.write_text("".join(f'{{"msg":"other {n} {word}"}}\n' for n in range(40)))
    assert invoke(server, "ingest", logs, "-o", "json").json()["accepted_count"] == 40
    logs.write_text(f'{{"msg":"other 0 {word}"}}\n')
    assert invoke(server, "ingest", logs, "-o", "json").json()["accepted_count"] == 1


def test_a_dump_is_taken_in_once(server: ServerProcess, logs: Path, word: str) -> None:
    first = invoke(server, "ingest", logs, "--dump", word)
    assert first.code == ExitCode.OK
    assert "10 records acknowledged" in first.out
    assert "was taken in before" in invoke(server, "ingest", logs, "--dump", word).out
    rows = query(server, f"dump:{word}", "-o", "json").rows()
    assert sorted(row["record_number"] for row in rows) == list(range(1, 11))


def test_what_options_say_holds_for_the_records(server: ServerProcess, word: str) -> None:
    line = f"2026-01-01 10:00:00|{word}|broken\n".encode()
    outcome = invoke(
        server, "ingest", "-", "--service", "shop", "--host", "box", "--timezone", "Europe/Berlin", "--tlp", "amber",
        "--dataset", "samples", "--pattern", r"(?P<time>[^|]+)\|(?P<order>[^|]+)\|(?P<body>.*)", stdin=line,
    )  # fmt: skip
    assert outcome.code == ExitCode.OK, outcome.err
    (row,) = query(server, f"order:{word}", "-o", "json").rows()
    assert row["time"].startswith("2026-01-01T09:00:00")
    found = {key: row[key] for key in ("service", "host", "tlp", "dataset", "body")}
    assert found == {"service": "shop", "host": "box", "tlp": "amber", "dataset": "samples", "body": "broken"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dataset", "nowhere"), "must be a configured dataset"),
        (("--timezone", "Mars/Base"), "IANA name"),
        (("--tlp", "purple"), "tlp"),
    ],
)
def test_defaults_that_cannot_be_are_refused_by_name(
    server: ServerProcess, options: tuple[str, ...], said: str
) -> None:
    outcome = invoke(server, "ingest", "-", *options, stdin=b'{"msg":"x"}\n')
    assert outcome.code == ExitCode.USAGE
    assert said in outcome.err


def test_samples_are_added_once(server: ServerProcess) -> None:
    first = invoke(server, "samples", "--count", "500", "--seed", "7")
    assert first.code == ExitCode.OK
    assert first.out.startswith("500 sample logs acknowledged in ")
    assert "already" in invoke(server, "samples", "--count", "500", "--seed", "7").out
    (row,) = query(server, "dataset:samples AND region:* | stats count()", "-o", "json").rows()
    assert row["count"] >= 500
