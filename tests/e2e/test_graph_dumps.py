"""Dumps of a real server, by the command: what they hold, what two have in common, and one that comes again."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.e2e.test_graph import SERVICES, heimdall, wait_applied
from tests.support.server_process import ServerProcess

COUNT = 300


def _dump(header: str, first: int, name: str) -> bytes:
    rows = (
        f"{number},{name}{number},u{number}@mail.example.com,10.0.{number // 250}.{number % 250}"
        for number in range(first, first + COUNT)
    )
    return "\n".join([header, *rows, ""]).encode()


@pytest.mark.timeout(180)
def test_dumps_are_described_and_compared_and_one_that_comes_again_changes_nothing(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, environment=SERVICES) as server:
        forum, shop = _dump("id,login,email,ip", 0, "u"), _dump("nr,nick,contact,seen_at", 200, "x")
        with server.client() as client:
            client.ingest_stream(io.BytesIO(forum), "one", dump="forum", format="csv", tlp="green")
            client.ingest_stream(io.BytesIO(shop), "two", dump="shop", format="csv", tlp="red")
        wait_applied(server)
        shown = json.loads(heimdall(server, "show", "dump:forum", "-o", "json", "-n", "1").splitlines()[0])
        profile = shown["vertex"]["profile"]
        told = {one["name"]: (one["type"], one["value_count"], one["distinct_count"]) for one in profile["fields"]}
        assert told == {
            name: (type_, COUNT, COUNT)
            for name, type_ in (("id", "number"), ("login", "text"), ("email", "email"), ("ip", "ipv4"))
        }
        assert "@" not in json.dumps(profile), "addresses are tokens"
        assert "mostly" in heimdall(server, "show", "dump:forum", "-n", "1")

        for method in ("exact", "estimated"):
            found = list(
                csv.DictReader(heimdall(server, "match", "forum", "shop", "-o", "csv", "--method", method).splitlines())
            )
            assert {(one["field_a"], one["field_b"], one["shared"]) for one in found if one["same"] == "true"} == {
                ("id", "nr", "100"),
                ("email", "contact", "100"),
                ("ip", "seen_at", "100"),
            }
        assert "= " in heimdall(server, "match", "forum", "dump:shop", "--min", "0.3")
        assert "no vertex" in heimdall(server, "match", "forum", "shop", "--tlp", "amber", code=2)

        before = heimdall(server, "show", "dump:forum", "-n", "1")
        with server.client() as client:
            client.ingest_stream(io.BytesIO(forum), "one", dump="forum", format="csv", tlp="green")
        wait_applied(server)
        assert heimdall(server, "show", "dump:forum", "-n", "1") == before
