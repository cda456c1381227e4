from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

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
from heimdall_server.protect.rules import FEW_SPARSE, passing, union
from tests.unit.protect.labelled_corpus import CLASSES as DETECTED
from tests.unit.protect.labelled_corpus import positives, scores, table, weak


def test_each_class_is_found_and_near_misses_are_left(record_testsuite_property: Callable[[str, object], None]) -> None:
    found = scores(count=200)
    record_testsuite_property("privacy_detection", table(found))
    assert not weak(found), table(weak(found))


def test_the_labelled_corpus_has_every_class_that_rules_find() -> None:
    assert set(DETECTED) == {rule.data_class for rule in RULES}


@pytest.mark.parametrize("data_class", DETECTED)
def test_a_rule_and_its_gate_mean_the_same_to_both_engines_however_many_texts_there_are(data_class: str) -> None:
    lines = [one.line for one in positives(data_class, FEW_SPARSE + 50, seed=5)]
    everything = passing(pl.Series(lines), [union(RULES)])[union(RULES)]
    many, few = passed_gates(RULES, pl.Series(lines)), passed_gates(RULES, pl.Series(lines[:50]))
    for rule in RULES:
        rewritten = [rule.substitute_text(line, "x") for line in lines]
        if rewritten != lines:
            assert rule.substitute(pl.Series(lines), "x").to_list() == rewritten, rule.name
        for number, (line, after) in enumerate(zip(lines, rewritten, strict=True)):
            if after != line:
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
