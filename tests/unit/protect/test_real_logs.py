"""What is found where hardly anything personal is: lines of real systems, and the same lines as tables."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.structured import classify_column
from tests.unit.protect.reference import batch_of

FOLDER = os.environ.get("HEIMDALL_TEST_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER, reason="HEIMDALL_TEST_DATA doesn't name the folder of real logs"),
]
WRONG_SHARE_MAX = 0.001


def test_real_logs_are_left_as_they_are_but_for_addresses_of_machines() -> None:
    files = sorted(Path(FOLDER, "loghub").glob("*_2k.log"))
    lines = [line for path in files for line in path.read_text(errors="replace").splitlines()]
    everything = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
    masked = everything.protect(batch_of([{"body": line} for line in lines])).batch.column("body").to_pylist()
    hits = Counter(
        name
        for before, after in zip(lines, masked, strict=True)
        for name in set(re.findall(r"\[([a-z0-9_]+)\]", after)) & set(CLASSES)
        if after.count(f"[{name}]") > before.count(f"[{name}]")
    )
    assert hits.pop("ipv4") > 1000
    assert len(lines) == 16_000
    assert sum(hits.values()) <= WRONG_SHARE_MAX * len(lines), hits


def test_columns_of_real_logs_hold_no_class_but_addresses_of_machines() -> None:
    found: dict[tuple[str, str], str] = {}
    for path in sorted(Path(FOLDER, "loghub").glob("*_structured.csv")):
        table = pl.read_csv(path, infer_schema_length=0)
        for name in table.columns:
            kind = classify_column(name, table[name].to_arrow().cast("string"))
            if kind is not None:
                found[path.stem, name] = kind.data_class
    assert set(found.values()) <= {"ipv4"}, found
