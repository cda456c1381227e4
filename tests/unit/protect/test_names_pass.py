from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.field_cipher import DataKeyFieldCipher, key_class
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import DrainingError
from heimdall_server.domain.personal import TOKEN
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.names_model import CLASSES as NAMED
from heimdall_server.protect.names_model import NamesModel
from heimdall_server.protect.names_pass import NamesPass
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.reference import Row, batch_of

pytestmark = [
    pytest.mark.skipif(not NamesModel.available(), reason="the optional model of names isn't installed"),
    pytest.mark.filterwarnings("default"),
]
MASKING = PrivacyPolicy(rules=(PrivacyRule("mask"),))
SENTENCE = "John Smith from Acme Corporation moved to Berlin last year."


@pytest.fixture(scope="module")
def model() -> NamesModel:
    return NamesModel()


@dataclass
class Counting:
    """What the real model is asked."""

    model: NamesModel
    asked: list[str] = field(default_factory=list)

    def find(self, texts: list[str]) -> object:
        self.asked += texts
        return self.model.find(texts)


def bodies(protector: PolicyProtector, *rows: Row) -> list[str]:
    return list(protector.protect(batch_of(list(rows))).batch.column("body").to_pylist())


def test_model_finds_names_that_no_label_gives_away(model: NamesModel) -> None:
    before = model.values_found
    found = model.find([SENTENCE, "nothing here"])
    first = found[0]
    assert (first.row, first.start, first.end, first.data_class) == (0, 0, 10, "name")
    assert {one.data_class for one in found} == set(NAMED)
    assert model.values_found == before + len(found)


def test_names_in_a_dump_are_treated_and_logs_are_left_alone(model: NamesModel) -> None:
    asked = Counting(model)
    protector = PolicyProtector(MASKING, names=NamesPass(asked))  # type: ignore[arg-type]
    batch = batch_of([
        {"dump": "d", "body": SENTENCE, "attributes": {"note": "Called Angela Merkel about it.", "id": "A17"}},
        {"body": SENTENCE},
        {"dump": "d", "body": SENTENCE},
    ])  # fmt: skip
    done = protector.protect(batch)
    masked = "[name] from [organisation] moved to [address] last year."
    assert done.batch.column("body").to_pylist() == [masked, SENTENCE, masked]
    assert dict(done.batch.column("attributes")[0].as_py()) == {"note": "Called [name] about it.", "id": "A17"}
    assert done.hits == {"name": 3, "organisation": 2, "address": 2}
    assert sorted(asked.asked) == sorted([SENTENCE, "Called Angela Merkel about it."])


def test_what_rules_found_is_not_taken_in_again_and_json_stays_json(model: NamesModel) -> None:
    text = json.dumps({"who": "Mr John Smith", "mail": "john.smith@example.org", "of": "Acme Corporation, Berlin"})
    protector = PolicyProtector(MASKING, names=NamesPass(model))
    (done,) = bodies(protector, {"dump": "d", "body": text})
    found = json.loads(done)
    assert found["mail"] == "[email]"
    assert "Smith" not in done
    assert bodies(protector, {"dump": "d", "body": done}) == [done]


def test_policy_decides_over_names_by_field(model: NamesModel) -> None:
    rules = (
        PrivacyRule("keep", "organisation"),
        PrivacyRule("drop", "name", field="attributes.note"),
        PrivacyRule("partial", "address"),
        PrivacyRule("mask"),
    )
    protector = PolicyProtector(PrivacyPolicy(rules=rules), names=NamesPass(model))
    row: Row = {"dump": "d", "body": SENTENCE, "attributes": {"note": SENTENCE, "other": "Plain text of a Ticket"}}
    done = protector.protect(batch_of([row])).batch
    body = done.column("body")[0].as_py()
    assert body.startswith("[name] from Acme Corporation moved to ")
    assert "Berlin" not in body
    assert "note" not in dict(done.column("attributes")[0].as_py())


def test_names_are_tokenised_sealed_and_found_by_their_words(model: NamesModel, tmp_path: Path) -> None:
    classes = (*CLASSES, *map(key_class, CLASSES))
    keyring = asyncio.run(
        Keyring.load(tmp_path / "ring", LocalKeyEncryption(RootKey(bytes(range(32)))), classes=classes)
    )
    actions = keyed_actions(keyring, keyring, cipher=DataKeyFieldCipher(keyring))
    rules = (PrivacyRule("encrypt", "address"), PrivacyRule("tokenise"))
    protector = PolicyProtector(PrivacyPolicy(rules=rules), actions, names=NamesPass(model))
    note = "Mail Ångström & Söhne: a@example.org for John Smith please"
    rows: list[Row] = [{"dump": "d", "body": SENTENCE, "attributes": {"note": note}}, {"dump": "d", "body": SENTENCE}]
    done = protector.protect(batch_of(rows))
    done.batch.validate(full=True)
    bodies, attributes = done.batch.column("body").to_pylist(), dict(done.batch.column("attributes")[0].as_py())
    assert [match[1] for match in TOKEN.finditer(bodies[0])] == ["name", "organisation"]
    assert "[enc:address:" in bodies[0]
    assert bodies[0] != bodies[1], "each encrypted value has a nonce of its own"
    outside = {match[2] for match in TOKEN.finditer(attributes["note"])}
    assert len(outside) >= 2
    assert outside <= set(done.batch.column("tokens")[0].as_py().split())
    person = TOKEN.search(bodies[0])
    assert person is not None
    assert person[0] in attributes["note"], "the same person has the same token"
    assert done.sidecars


def test_a_text_of_many_pages_is_read_to_its_end(model: NamesModel) -> None:
    long = "nothing of note happened on that day. " * 2_000 + SENTENCE
    (done,) = bodies(PolicyProtector(MASKING, names=NamesPass(model)), {"dump": "d", "body": long})
    assert done.endswith("[name] from [organisation] moved to [address] last year.")


def test_rate_bounds_how_fast_texts_are_read(model: NamesModel) -> None:
    rows: list[Row] = [{"dump": "d", "body": f"Called Angela Merkel on day {number}"} for number in range(40)]
    protector = PolicyProtector(MASKING, names=NamesPass(model, texts_per_s=100))
    began, used = time.monotonic(), time.thread_time()
    assert all("Merkel" not in body for body in bodies(protector, *rows))
    assert time.monotonic() - began >= 0.39
    assert time.thread_time() - used < 5


def test_several_threads_share_a_model(model: NamesModel) -> None:
    protector, answers = PolicyProtector(MASKING, names=NamesPass(model)), list[list[str]]()
    threads = [
        threading.Thread(target=lambda: answers.append(bodies(protector, {"dump": "d", "body": SENTENCE})))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [["[name] from [organisation] moved to [address] last year."]] * 4


def test_reading_ends_when_it_is_stopped(model: NamesModel) -> None:
    names = NamesPass(model, texts_per_s=0.1)
    protector = PolicyProtector(MASKING, names=names)
    timer = threading.Timer(0.1, names.stop)
    timer.start()
    with pytest.raises(DrainingError):
        bodies(protector, {"dump": "d", "body": SENTENCE})
    with pytest.raises(DrainingError):
        bodies(protector, {"dump": "d", "body": SENTENCE})
    assert bodies(protector, {"body": SENTENCE}) == [SENTENCE]
    timer.join()
