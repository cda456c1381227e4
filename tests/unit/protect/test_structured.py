from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum.pl import pesel

from heimdall_server.decode import csv
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.protect import dump_columns
from heimdall_server.protect.checks import plausible_card
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.structured import SAMPLE_VALUES, ColumnClass, classify_column
from tests.support.decode_streams import context
from tests.unit.protect.labelled import shapes
from tests.unit.protect.labelled.lines import digits
from tests.unit.protect.labelled.national import FORMS, valid_number
from tests.unit.protect.reference import Row, batch_of

EVERYTHING = PrivacyPolicy(rules=(PrivacyRule("mask"),))


def cells(make: str, count: int = 200) -> list[str]:
    draw = random.Random(make)
    number = draw.randrange
    makers = {
        "local_phone": lambda: f"0{number(151, 179)} {number(10**6, 10**8)}",
        "mobile": lambda: f"0176{number(10**7, 10**8)}",
        "birth": lambda: f"{number(1, 29):02}.{number(1, 13):02}.{number(1940, 2010)}",
        "order": lambda: str(number(10**10, 10**11)),
        "order8": lambda: str(number(10**7, 10**8)),
        "order9": lambda: str(number(10**8, 10**9)),
        "order16": lambda: str(number(10**15, 10**16)),
        "padded": lambda: f"{number(10**9):010}",
        "money": lambda: f"{number(10**4)}.{number(100):02}",
        "stamp": lambda: f"2024-{number(1, 13):02}-{number(1, 29):02}",
        "hex": lambda: f"{number(2**64):016x}",
        "version": lambda: f"{number(9)}.{number(30)}.{number(10)}",
        "epoch": lambda: str(1_700_000_000 + number(10**7)),
        "person": lambda: f"{draw.choice(('Łucja', 'Anna', 'Zoë'))} {draw.choice(('von Berg', 'Müller', 'Nowak'))} {draw.choice('ABCDEFG')}.",
        "product": lambda: f"blue widget {number(10**6)}",
        "street": lambda: f"{draw.choice(('Hauptstr.', 'Am Markt', 'Ringweg'))} {number(1, 999)}",
        "email": lambda: shapes.email(draw).value,
        "iban": lambda: shapes.iban(draw).value,
        "card": lambda: shapes.card(draw).value,
        "passport": lambda: f"{draw.choice('CFGHJK')}{number(10**7, 10**8)}",
        "account": lambda: digits(draw, 10),
    }  # fmt: skip
    return [makers[make]() for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "make", "data_class"),
    [
        ("kontakt", "local_phone", "phone"),
        ("Kontakt", "mobile", "phone"),
        ("x1", "local_phone", "phone"),
        ("geb", "birth", "birth_date"),
        ("gebDatum", "birth", "birth_date"),
        ("kunde", "person", "name"),
        ("strasse", "street", "address"),
        ("konto", "account", "bank_account"),
        ("ausweis", "passport", "passport"),
        ("x1", "email", "email"),
        ("x1", "iban", "iban"),
        ("x1", "card", "card"),
    ],
)
def test_content_says_what_a_vague_name_leaves_open(name: str, make: str, data_class: str) -> None:
    found = classify_column(name, pa.array(cells(make)))
    assert found is not None
    assert (found.data_class, found.by_name) == (data_class, False)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
def test_column_of_national_numbers_needs_no_label_where_the_scheme_has_a_checksum(
    form: tuple[str, tuple[str, ...], str],
) -> None:
    draw = random.Random(form[0])
    found = classify_column("x1", pa.array([valid_number(draw, form) for _ in range(60)]))
    # Denmark stopped checking in 2007: there is nothing to tell them from other numbers.
    assert found is not None or form[0] in WITHOUT_CHECKSUM
    assert found is None or found.data_class in {"national_id", *ALSO.get(form[0], ())}


WITHOUT_CHECKSUM = {"dk.cpr", "us.itin", "in_.pan"}
ALSO = {"us.itin": ("ssn",)}


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for make in ("order", "order8", "order9", "order16", "padded", "money", "stamp", "hex", "version", "epoch", "product")
     for name in ("x1", "order_no", "value")]
    + [("kontakt", "email_free"), ("geb", "epoch"), ("name", "product"), ("position", "order8"), ("contact", "money")],
)  # fmt: skip
def test_columns_of_other_things_are_nothing(name: str, make: str) -> None:
    values = ["on request", "by post", "see notes", "never", "weekly", "daily"] if make == "email_free" else cells(make)
    assert classify_column(name, pa.array(values)) is None


def test_a_few_cells_say_something_only_where_the_name_suggests_it() -> None:
    assert classify_column("x1", pa.array(["0176 1234567"])) is None
    found = classify_column("kontakt", pa.array(["0176 1234567"]))
    assert found is not None
    assert found.data_class == "phone"
    assert classify_column("kontakt", pa.array(["0176 1234567", "by post"])) is None


def test_running_text_is_left_to_the_rules() -> None:
    text = pa.array([f"{'a long sentence about nothing much ' * 4}{number}" for number in range(20)])
    assert classify_column("note", text) is None


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=12), values=st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=30))
def test_any_column_has_a_class_or_none(name: str, values: list[str | None]) -> None:
    found = classify_column(name, pa.array(values, pa.string()))
    assert found is None or 0 <= found.share <= 1


def dump_rows(columns: dict[str, list[str]], *, dump: str = "customers", source: str = "s") -> list[Row]:
    count = len(next(iter(columns.values())))
    return [
        {"source": source, "dump": dump, "attributes": {name: column[row] for name, column in columns.items()}}
        for row in range(count)
    ]


def column(batch: pa.RecordBatch, name: str) -> list[str]:
    return [dict(row).get(name, "") for row in batch.column("attributes").to_pylist()]


def test_a_column_of_a_dump_is_treated_whole_and_a_log_is_not_looked_at() -> None:
    phones = [*cells("mobile", 50), "unknown"]
    columns = {"kontakt": phones, "id": [str(number) for number in range(51)]}
    protect = PolicyProtector(EVERYTHING).protect
    done = protect(batch_of(dump_rows(columns)))
    assert column(done.batch, "kontakt") == ["[phone]"] * 51
    assert column(done.batch, "id") == columns["id"]
    assert done.hits["phone"] == 51
    logs = protect(batch_of(dump_rows(columns, dump="", source="logs")))
    assert column(logs.batch, "kontakt") == phones


def test_what_a_column_was_once_it_stays_for_its_source() -> None:
    protect = PolicyProtector(EVERYTHING).protect
    protect(batch_of(dump_rows({"x1": cells("local_phone", 50)})))
    later = protect(batch_of(dump_rows({"x1": ["none", "12"]})))
    assert column(later.batch, "x1") == ["[phone]"] * 2
    other = protect(batch_of(dump_rows({"x1": ["none", "12"]}, source="other")))
    assert column(other.batch, "x1") == ["none", "12"]


def test_what_a_column_holds_does_not_stand_beside_it_where_its_name_is_one_of_ours() -> None:
    phones = cells("local_phone", 20)
    cards = ["4111111111111111", *("411111111111" + f"{number:04}" for number in range(3000))]
    cards = list(filter(plausible_card, cards))[:20]
    table = {"Host": phones, "message": phones[::-1], "level": phones, "span_id": cards, "n": ["7"] * 20}
    data = "\n".join([",".join(table), *map(",".join, zip(*table.values(), strict=True))]).encode() + b"\n"
    format_ = Format(FormatKind.CSV, {"header": json.dumps(list(table)), "header_row": "true"})
    decoded = csv.decode(data, format_, context(dump="customers", service="shop"), at_start=True).batch
    assert column(decoded, "Host") == phones
    assert decoded.column("host").to_pylist() == phones
    done = PolicyProtector(EVERYTHING).protect(decoded).batch
    for name in ("Host", "message", "level"):
        assert column(done, name) == ["[phone]"] * 20
    assert not any(phone in str(done.to_pylist()) for phone in phones)
    assert done.column("service").to_pylist() == ["shop"] * 20
    assert column(done, "span_id") == ["[card]"] * 20
    assert set(done.column("span_id").to_pylist()) == {bytes(8)}
    assert set(decoded.column("span_id").to_pylist()) == set(map(bytes.fromhex, cards))
    kept = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("keep"),))).protect(decoded).batch
    assert kept.column("host").to_pylist() == phones


def test_dumps_of_one_source_are_classified_apart() -> None:
    protect = PolicyProtector(EVERYTHING).protect
    protect(batch_of(dump_rows({"x1": cells("local_phone", 50)}, dump="people")))
    other = protect(batch_of(dump_rows({"x1": ["none", "12"]}, dump="things")))
    assert column(other.batch, "x1") == ["none", "12"]


def test_numbers_of_a_column_count_and_become_texts() -> None:
    draw = random.Random(1)
    bodies = [f"{draw.randrange(40, 99)}0{draw.randrange(1, 10)}1{draw.randrange(10**5):05}" for _ in range(50)]
    numbers = [float(body + pesel.calc_check_digit(body)) for body in bodies]
    records: list[Row] = [{"dump": "d", "attributes_number": {"nr": number, "n": 1.0}} for number in numbers]
    done = PolicyProtector(EVERYTHING).protect(batch_of(records)).batch
    assert column(done, "nr") == ["[national_id]"] * 50
    assert done.column("attributes_number").to_pylist() == [[("n", 1.0)]] * 50


def test_sources_of_one_batch_are_classified_apart_and_the_policy_decides_by_field() -> None:
    policy = PrivacyPolicy(rules=(PrivacyRule("keep", "phone", field="attributes.b"), PrivacyRule("mask")))
    first = dump_rows({"a": cells("local_phone", 20), "b": cells("local_phone", 20)}, source="first")
    second = dump_rows({"a": cells("product", 20), "b": cells("product", 20)}, source="second")
    mixed = [row for pair in zip(first, second, strict=True) for row in pair]
    done = PolicyProtector(policy).protect(batch_of(mixed)).batch
    assert column(done, "a")[::2] == ["[phone]"] * 20
    assert column(done, "a")[1::2] == cells("product", 20)
    # What is kept by its column's class isn't found by a rule either: `0176 1234567` has no country.
    assert column(done, "b") == [
        value for pair in zip(cells("local_phone", 20), cells("product", 20), strict=True) for value in pair
    ]


def test_columns_of_a_wide_dump_are_all_looked_at_once_and_then_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_columns, "_BATCH_COLUMNS_AGAIN_MAX", 3)
    looked: list[str] = []

    def noted(name: str, values: pa.StringArray, *, sample_values: int) -> ColumnClass | None:
        looked.append(name)
        return classify_column(name, values, sample_values=sample_values)

    monkeypatch.setattr(dump_columns, "classify_column", noted)
    protect = PolicyProtector(EVERYTHING).protect
    names = [f"x{number}" for number in range(7)]
    for _ in range(4):
        protect(batch_of(dump_rows({name: cells("product", 5) for name in names})))
    assert sorted(looked[:7]) == names
    assert sorted(looked[7:14]) == names
    assert len(looked) == 7 + 3 * 3
    changed = {
        **{name: cells("product", 20) for name in names},
        **{name: cells("local_phone", 20) for name in names[:4]},
    }
    for _ in range(5):  # what has a class doesn't stand in the way of the others
        protect(batch_of(dump_rows(changed)))
    later = protect(batch_of(dump_rows({name: ["none"] for name in names}))).batch
    assert [column(later, name)[0] for name in names] == ["[phone]"] * 4 + ["none"] * 3


def test_remembered_columns_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_columns, "COLUMNS_MAX", 3)
    protect = PolicyProtector(EVERYTHING).protect
    for source in ("a", "b", "c", "d"):
        protect(batch_of(dump_rows({"x1": cells("local_phone", 20)}, source=source)))
    forgotten = protect(batch_of(dump_rows({"x1": ["none"]}, source="a")))
    known = protect(batch_of(dump_rows({"x1": ["none"]}, source="d")))
    assert (column(forgotten.batch, "x1"), column(known.batch, "x1")) == (["none"], ["[phone]"])


def test_a_sample_of_a_long_column_is_enough() -> None:
    values = cells("local_phone", SAMPLE_VALUES * 8)
    found = classify_column("x1", pa.array(values), sample_values=50)
    assert found is not None
    assert found.data_class == "phone"


def test_column_of_valid_numbers_is_classified_without_a_label() -> None:
    draw = random.Random(1)
    bodies = [f"{draw.randrange(40, 99)}0{draw.randrange(1, 10)}1{draw.randrange(10**5):05}" for _ in range(50)]
    found = classify_column("x", pa.array([body + pesel.calc_check_digit(body) for body in bodies]))
    assert found is not None
    assert (found.data_class, found.share, found.by_name) == ("national_id", 1.0, False)


def test_columns_name_decides_before_its_content() -> None:
    found = classify_column("e-mail", pa.array(["a@b.org", None, "", "unknown"]))
    assert found is not None
    assert (found.data_class, found.share, found.by_name) == ("email", 0.5, True)
