"""A whole server under a policy of many actions: what is stored, what can be read again, what is gone with its key."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heimdall_client.cli.privacy_reveal import in_row
from heimdall_client.errors import InvalidArgumentError
from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess

ALICE, BOB, PHONE = "alice.lovelace@example.com", "bob.babbage@example.org", "+14155552671"
RULES = [
    {"class": "email", "field": "attributes.contact", "action": "encrypt"},
    {"class": "phone", "field": "attributes.*", "action": "format_preserving"},
    {"action": "tokenise"},
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    environment = {"HEIMDALL_SERVICES": '["ingest","query","admin","privacy"]', "HEIMDALL_JOURNAL__AGE_MAX_S": "2"}
    with ServerProcess(tmp_path, environment=environment) as running:
        yield running
    place = tmp_path / "data" / "postgres" / "place"
    if place.is_file():
        shutil.rmtree(place.read_text().strip(), ignore_errors=True)


def records(client: Client, query: str = "*") -> list[dict[str, Any]]:
    return [dict(row) for row in client.search(query, consistent=True, encoding="json")]


def revealed(client: Client, *asked: tuple[str, str, str]) -> list[str]:
    written = [{"text": text, "field": field, "data_class": kind} for text, field, kind in asked]
    return [one.value for one in client.reveal([], reason="ticket 4711", written=written)]


def test_values_are_encrypted_kept_in_form_and_tokenised_and_read_again(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "in.ndjson"
    line = {"message": "hello", "contact": ALICE, "phone": PHONE}
    file.write_text(json.dumps(line) + "\n" + f'{{"message": broken, "user": "{BOB}"}}\n')
    with server.client() as client:
        client.set_privacy_policy(RULES, reason="to see them all")
        with pytest.raises(InvalidArgumentError) as refused:
            client.set_privacy_policy([*RULES, {"class": "card", "action": "mask"}], reason="a slip")
        assert "is never reached" in str(refused.value)
        assert client.privacy_policy().policy.version == 2
        client.ingest_file(file, source_id=f"files/{ALICE}.log")
        (row,) = records(client)
        assert ALICE not in json.dumps(row)
        assert row["source"].startswith("files/[email]~")
        contact, phone = row["attributes"]["contact"], row["attributes"]["phone"]
        assert contact.startswith("[enc:email:")
        assert re.fullmatch(r"\+[0-9]{11}", phone)
        assert phone != PHONE
        assert list(in_row(row)) == [(contact, "attributes.contact", "")]
        values = revealed(client, (contact, "attributes.contact", ""), (phone, "", "phone"), (contact, "body", ""))
        assert values == [ALICE, PHONE, ""]

        (letter,) = client.list_dead_letters().dead_letters
        plain = client.retry_dead_letters([letter.dead_letter_id], read_as="text", format_options={"pattern": "plain"})
        assert [one.accepted_count for one in plain.outcomes] == [1]
        (token,) = re.findall(
            r"\[email:[0-9a-z]{27}\]", next(r["body"] for r in records(client) if "broken" in r["body"])
        )
        (bob,) = client.reveal([token], reason="ticket 4711")
        assert bob.value == BOB

        operation = client.rotate_key("dek", data_classes=["enc_email"], reason="shred").operation_id
        for _ in client.watch_operation(operation):
            pass
        assert revealed(client, (contact, "attributes.contact", "")) == [""]
        (bob,) = client.reveal([token], reason="ticket 4711")
        assert bob.value == BOB
