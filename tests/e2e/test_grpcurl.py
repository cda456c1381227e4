"""Every method of a real server, called by the real grpcurl: descriptors by reflection, mutual TLS, JSON.

Python's descriptors lack JSON names, so grpcurl answers in those of the contract (it takes both).
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.testbed

INGEST = "heimdall.ingest.v1.IngestService"
QUERY = "heimdall.query.v1.QueryService"
ADMIN = "heimdall.admin.v1.AdminService"
LOGS = "opentelemetry.proto.collector.logs.v1.LogsService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"
SERVICES = {INGEST, QUERY, ADMIN, LOGS, HEALTH, REFLECTION, "grpc.reflection.v1alpha.ServerReflection"}
STATUS_EXIT = 64
"""grpcurl's exit code is this plus the status code."""


@dataclass
class Grpcurl:
    """grpcurl with a client's certificate."""

    binary: Path
    server: ServerProcess

    def run(self, *arguments: str, stdin: str = "", client: str = "admin") -> subprocess.CompletedProcess[str]:
        certs = self.server.certs
        identity = ["-cert", f"{certs}/{client}.pem", "-key", f"{certs}/{client}-key.pem"] if client else []
        return subprocess.run(
            [self.binary, "-cacert", certs / "ca.pem", *identity, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def call(self, method: str, *messages: dict[str, Any], options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Call a method that must succeed; returns the answers."""
        stdin = "\n".join(map(json.dumps, messages or ({},)))
        done = self.run(*options, "-d", "@", self.server.address, method, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return _objects(done.stdout)

    def one(self, method: str, message: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call a method that gives one answer."""
        (answer,) = self.call(method, message or {})
        return answer


def _objects(text: str) -> list[dict[str, Any]]:
    decoder, found = json.JSONDecoder(), []
    text = text.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


def _append(curl: Grpcurl, source_id: str, payload: bytes) -> list[dict[str, Any]]:
    batch = {
        "offset": 0,
        "nextOffset": len(payload),
        "crc32c": google_crc32c.value(payload),
        "payload": base64.b64encode(payload).decode(),
    }
    opening = {"sourceId": source_id, "format": {"kind": "KIND_NDJSON"}, "defaults": {"service": "shop"}}
    return curl.call(f"{INGEST}/Append", {"open": opening}, {"batch": batch}, {"flush": {}}, {"finish": {}})


@pytest.fixture(scope="module")
def curl(grpcurl: Path, server: ServerProcess) -> Grpcurl:
    return Grpcurl(grpcurl, server)


@pytest.fixture(scope="module")
def appended(curl: Grpcurl) -> list[dict[str, Any]]:
    lines = [b'{"msg":"order %d paid","level":"info","amount":%d}' % (number, number) for number in range(5)]
    return _append(curl, "grpcurl/orders", b"\n".join([*lines, b'{"msg": broken', b""]))


def _search(curl: Grpcurl, text: str, **more: Any) -> list[dict[str, Any]]:
    request = {"question": {"text": text}, "rowEncoding": "ROW_ENCODING_JSON", "consistent": True, **more}
    answers = curl.call(f"{QUERY}/Search", request)
    return [json.loads(row) for answer in answers for row in answer.get("batch", {}).get("json_rows", [])]


def test_reflection_lists_every_service(curl: Grpcurl) -> None:
    done = curl.run(curl.server.address, "list")
    assert set(done.stdout.split()) == SERVICES, done.stderr


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_in_both_versions(curl: Grpcurl, version: str) -> None:
    method = f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    (answer,) = curl.call(method, {"listServices": "*"})
    assert {one["name"] for one in answer["list_services_response"]["service"]} == SERVICES


def test_every_method_has_a_test_here(curl: Grpcurl) -> None:
    told = {
        line.strip()
        for service in SERVICES
        for line in curl.run(curl.server.address, "list", service).stdout.splitlines()
    }
    text = Path(__file__).read_text()
    for service, names in _by_service(told).items():
        for name in names:
            assert f"/{name}" in text, f"{service}.{name} isn't called"


def _by_service(methods: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for method in methods:
        service, _, name = method.rpartition(".")
        found.setdefault(service, []).append(name)
    return found


def test_append_acknowledges_good_records_and_tells_the_bad_one(appended: list[dict[str, Any]]) -> None:
    opened, *acks, finished = appended
    assert opened["opened"]["limits"]["payload_bytes_max"] == str(4 << 20)
    assert acks[0]["ack"]["format"]["kind"] == "KIND_NDJSON"
    assert finished["finished"]["accepted_count"] == "5"
    assert finished["finished"]["rejected_count"] == "1"
    errors = [error for ack in acks for error in ack["ack"].get("row_errors", [])]
    assert len(errors) == 1


def test_get_source_tells_where_to_go_on(curl: Grpcurl, appended: list[dict[str, Any]]) -> None:
    source = curl.one(f"{INGEST}/GetSource", {"sourceId": "grpcurl/orders"})["source"]
    assert source["finished"] is True
    assert source["next_offset"] == appended[-1]["finished"]["next_offset"]


def test_dead_letters_are_listed_retried_and_deleted(curl: Grpcurl) -> None:
    _append(curl, "grpcurl/letters", b'{"msg": broken\n')
    (letter,) = curl.one(f"{INGEST}/ListDeadLetters", {"sourceId": "grpcurl/letters"})["dead_letters"]
    assert letter["raw_bytes_count"] == str(len(b'{"msg": broken'))
    retry = {"deadLetterIds": [letter["dead_letter_id"]], "format": {"kind": "KIND_TEXT"}, "requestId": "grpcurl-1"}
    (outcome,) = curl.one(f"{INGEST}/RetryDeadLetters", retry)["outcomes"]
    assert outcome["accepted_count"] == "1"
    _append(curl, "grpcurl/more-letters", b'{"msg": broken\n')
    (letter,) = curl.one(f"{INGEST}/ListDeadLetters", {"sourceId": "grpcurl/more-letters"})["dead_letters"]
    curl.one(f"{INGEST}/DeleteDeadLetters", {"deadLetterIds": [letter["dead_letter_id"]]})
    for source in ("grpcurl/letters", "grpcurl/more-letters"):
        assert not curl.one(f"{INGEST}/ListDeadLetters", {"sourceId": source}).get("dead_letters")


@pytest.mark.usefixtures("appended")
def test_search_finds_what_was_appended(curl: Grpcurl) -> None:
    rows = _search(curl, "source:grpcurl/orders AND order AND amount:>=3 | fields body, amount | sort amount")
    assert [row["body"] for row in rows] == ["order 3 paid", "order 4 paid"]


@pytest.mark.usefixtures("appended")
def test_search_takes_sql(curl: Grpcurl) -> None:
    answers = curl.call(
        f"{QUERY}/Search",
        {
            "question": {"sql": "SELECT count(*) AS n FROM logs WHERE source = 'grpcurl/orders'"},
            "rowEncoding": "ROW_ENCODING_JSON",
            "consistent": True,
        },
    )
    rows = [json.loads(row) for answer in answers for row in answer.get("batch", {}).get("json_rows", [])]
    assert rows == [{"n": 5}]


@pytest.mark.usefixtures("appended")
def test_explain_tells_the_plan(curl: Grpcurl) -> None:
    answer = curl.one(f"{QUERY}/Explain", {"question": {"text": "paid | stats count() by service"}, "analyze": True})
    assert answer["plans"][0]["tier"] == "warm"
    assert "actual" in answer


@pytest.mark.usefixtures("appended")
def test_list_fields_and_their_values(curl: Grpcurl) -> None:
    _search(curl, "source:grpcurl/orders")  # waits until they are visible
    fields = curl.one(f"{QUERY}/ListFields")["fields"]
    assert "amount" in " ".join(field["name"] for field in fields)
    question = {"text": "source:grpcurl/orders"}
    values = curl.one(f"{QUERY}/ListFieldValues", {"field": "service", "question": question})
    assert [(value["value"], value["record_count"]) for value in values["values"]] == [("shop", "5")]


@pytest.mark.usefixtures("appended")
def test_watch_gives_history_and_goes_on(curl: Grpcurl) -> None:
    _search(curl, "source:grpcurl/orders")
    create = {
        "watchId": "w",
        "question": {"text": "source:grpcurl/orders"},
        "start": {"lastCount": 2},
        "rowEncoding": "ROW_ENCODING_JSON",
    }
    done = curl.run(
        "-max-time", "4", "-d", "@", curl.server.address, f"{QUERY}/Watch", stdin=json.dumps({"create": create})
    )
    answers = _objects(done.stdout)
    assert answers[0]["created"]["watch_id"] == "w"
    rows = [json.loads(row) for one in answers if "rows" in one for row in one["rows"]["batch"]["json_rows"]]
    assert len(rows) == 2, done.stderr


def test_watch_is_cancelled_by_its_id(curl: Grpcurl) -> None:
    create = {"watchId": "w", "question": {"text": "nothing_has_this_word"}}
    answers = curl.call(f"{QUERY}/Watch", {"create": create}, {"cancel": {"watchId": "w"}}, options=("-max-time", "10"))
    assert answers[-1]["cancelled"]["watch_id"] == "w"


def test_admin_tells_status_configuration_and_datasets(curl: Grpcurl) -> None:
    status = curl.one(f"{ADMIN}/GetStatus")
    assert {service["health"] for service in status["services"]} == {"HEALTH_SERVING"}
    assert "mesh_address" in curl.one(f"{ADMIN}/GetConfig")["toml"]
    datasets = curl.one(f"{ADMIN}/ListDatasets")["datasets"]
    assert {"logs", "dumps", "samples"} <= {dataset["dataset_id"] for dataset in datasets}


def _otlp(body: str, **record: Any) -> dict[str, Any]:
    log = {"timeUnixNano": str(time.time_ns()), "severityNumber": 9, "body": {"stringValue": body}, **record}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "curl"}}]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [log]}]}]}


def test_otlp_export_is_stored(curl: Grpcurl) -> None:
    attributes = [{"key": "tries", "value": {"intValue": "3"}}]
    assert curl.one(f"{LOGS}/Export", _otlp("exported by curl", attributes=attributes)) == {}
    rows = _search(curl, 'service:curl AND "exported by curl" AND tries:3')
    assert [row["body"] for row in rows] == ["exported by curl"]


def test_otlp_export_works_on_its_own_port(curl: Grpcurl) -> None:
    done = curl.run("-d", "@", curl.server.otlp_address, f"{LOGS}/Export", stdin=json.dumps(_otlp("second port")))
    assert done.returncode == 0, done.stderr
    assert len(_search(curl, '"second port"')) == 1


@pytest.mark.parametrize("service", ["", INGEST, QUERY, ADMIN, LOGS])
def test_health_check_of_each_service(curl: Grpcurl, service: str) -> None:
    assert curl.one(f"{HEALTH}/Check", {"service": service})["status"] == "SERVING"


def test_health_list_and_watch(curl: Grpcurl) -> None:
    statuses = curl.one(f"{HEALTH}/List")["statuses"]
    assert {service for service in statuses if service} == {INGEST, QUERY, ADMIN, LOGS}
    done = curl.run("-max-time", "2", "-d", "{}", curl.server.address, f"{HEALTH}/Watch")
    assert _objects(done.stdout)[0]["status"] == "SERVING"
    assert done.returncode == STATUS_EXIT + 4, "it would have gone on"


REFUSALS: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "a query that can't be read": (f"{QUERY}/Search", {"question": {"text": "service:("}}, 3, "QUERY_INVALID"),
    "a request beyond its constraints": (f"{INGEST}/GetSource", {"sourceId": ""}, 3, "INVALID_ARGUMENT"),
    "indexes of a database that isn't there": (f"{ADMIN}/ReportIndexes", {}, 12, "UNIMPLEMENTED"),
    "slow statements of a database that isn't there": (f"{ADMIN}/ListSlowStatements", {}, 12, "UNIMPLEMENTED"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_errors_carry_a_reason(curl: Grpcurl, name: str) -> None:
    method, request, code, reason = REFUSALS[name]
    done = curl.run("-d", "@", curl.server.address, method, stdin=json.dumps(request))
    assert done.returncode == STATUS_EXIT + code, done.stderr
    assert reason in done.stderr


def test_a_client_without_the_permission_is_refused(curl: Grpcurl) -> None:
    done = curl.run(curl.server.address, f"{ADMIN}/GetConfig", client="writer")
    assert done.returncode == STATUS_EXIT + 7, done.stderr
    assert "admin.config.read" in done.stderr


def test_a_client_without_a_certificate_is_refused_and_the_log_says_why(curl: Grpcurl) -> None:
    done = curl.run("-connect-timeout", "5", curl.server.address, "list", client="")
    assert done.returncode != 0
    _eventually(lambda: '"reason":"no_certificate"' in curl.server.log.read_text())


def _eventually(holds: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
