from __future__ import annotations

import random
from collections.abc import Callable

import polars as pl
import pyarrow as pa
import pytest
from stdnum.pl import pesel

from heimdall_server.protect.catalogue import (
    CLASSES,
    CREDENTIAL_CLASSES,
    DESCRIPTIONS,
    PERSONAL_CLASSES,
    RULES,
)
from heimdall_server.protect.gates import passed_gates
from heimdall_server.protect.keccak import keccak_256
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.names_model import NamesModel
from heimdall_server.protect.rules import FEW_SPARSE, passing, union
from heimdall_server.protect.structured import classify_column
from tests.unit.protect.labelled_corpus import CLASSES as DETECTED
from tests.unit.protect.labelled_corpus import LabelledCorpus, scores, table


def test_each_class_is_found_and_near_misses_are_left(record_testsuite_property: Callable[[str, object], None]) -> None:
    found = scores()
    record_testsuite_property("privacy_detection", table(found))
    weak = {name: score for name, score in found.items() if score.recall < 0.99 or score.precision < 0.97}
    assert not weak, table(found)


@pytest.mark.parametrize("data_class", DETECTED)
def test_texts_that_a_rule_rewrites_pass_its_gate_however_many_there_are(data_class: str) -> None:
    lines = [line for line, _ in LabelledCorpus(5).positives(data_class)][: FEW_SPARSE + 50]
    everything = passing(pl.Series(lines), [union(RULES)])[union(RULES)]
    many, few = passed_gates(RULES, pl.Series(lines)), passed_gates(RULES, pl.Series(lines[:50]))
    for rule in RULES:
        for number, line in enumerate(lines):
            if rule.substitute_text(line, "x") != line:
                assert everything[number], (rule.name, line)
                assert many[rule.gate][number], (rule.name, line)
                assert number >= 50 or few[rule.gate][number], (rule.name, line)


def test_every_class_is_described_and_is_either_personal_or_a_credential() -> None:
    assert set(DESCRIPTIONS) == set(CLASSES)
    assert set(CLASSES) == CREDENTIAL_CLASSES | PERSONAL_CLASSES
    assert not CREDENTIAL_CLASSES & PERSONAL_CLASSES


def test_keccak_gives_the_digest_that_ethereum_knows_for_nothing() -> None:
    assert keccak_256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@pytest.mark.parametrize(
    ("key", "data_class"),
    [
        ("user.first_name", "name"),
        ("customerLastName", "name"),
        ("dob", "birth_date"),
        ("passport_number", "passport"),
        ("pesel", "national_id"),
        ("account_number", "bank_account"),
        ("geo.latitude", "geo"),
        ("shipping_address", "address"),
        ("client.address", ""),
        ("host.name", ""),
        ("span_id", ""),
        ("latency", ""),
    ],
)
def test_name_of_a_field_tells_its_class(key: str, data_class: str) -> None:
    assert class_of_name(key) == data_class


def test_column_of_valid_numbers_is_classified_without_a_label() -> None:
    draw = random.Random(1)
    bodies = [f"{draw.randrange(40, 99)}0{draw.randrange(1, 10)}1{draw.randrange(10**5):05}" for _ in range(50)]
    found = classify_column("x", pa.array([body + pesel.calc_check_digit(body) for body in bodies]))
    assert found is not None
    assert (found.data_class, found.share, found.by_name) == ("national_id", 1.0, False)


def test_column_of_order_numbers_is_nothing() -> None:
    draw = random.Random(1)
    assert classify_column("order", pa.array([str(draw.randrange(10**10, 10**11)) for _ in range(200)])) is None


def test_columns_name_decides_before_its_content() -> None:
    found = classify_column("e-mail", pa.array(["a@b.org", None, "", "unknown"]))
    assert found is not None
    assert (found.data_class, found.share, found.by_name) == ("email", 0.5, True)


@pytest.mark.skipif(not NamesModel.available(), reason="the optional model of names isn't installed")
@pytest.mark.filterwarnings("default")
def test_model_finds_names_that_no_label_gives_away() -> None:
    model = NamesModel()
    found = model.find(["John Smith from Acme Corporation moved to Berlin.", "nothing here"])
    first = found[0]
    assert (first.row, first.start, first.end, first.data_class) == (0, 0, 10, "name")
    assert model.values_found == len(found)
