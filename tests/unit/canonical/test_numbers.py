from __future__ import annotations

import pyarrow as pa
import pytest
from stdnum import iban as stdnum_iban
from stdnum import luhn

from heimdall_server.canonical.catalogue import display
from heimdall_server.canonical.column import Change
from heimdall_server.canonical.phone import phone
from tests.unit.canonical.spellings import column_of, form_of


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("+49 (0)30 123456", "+4930123456"),
        ("+49 30 123456", "+4930123456"),
        ("+4930123456", "+4930123456"),
        ("+49030123456", "+4930123456"),
        ("0049 30/123456", "+4930123456"),
        ("tel:+1-201-555-0123;ext=42", "+12015550123"),
        ("+1 (201) 555-0123 ext. 42", "+12015550123"),
        ("+\uff13\uff19 06 1234 5678", "+390612345678"),
        ("+390612345678", "+390612345678"),
        ("+44\u00a020\u20117946\u20110958", "+442079460958"),
    ],
)
def test_phones_are_written_in_e164(text: str, canonical: str) -> None:
    assert form_of("phone", text) == canonical


def test_a_default_region_makes_local_numbers_readable() -> None:
    values = pa.array(["030 123456", "(0)30 123456", "+33 1 23 45 67 89"])
    assert phone(values).values.to_pylist() == [None, None, "+33123456789"]
    column = phone(values, region="DE")
    assert column.values.to_pylist() == ["+4930123456", "+4930123456", "+33123456789"]
    assert [bool(changes & Change.ASSUMED) for changes in column.changes.to_pylist()] == [True, True, False]
    assert max(column.confidence.to_pylist()[:2]) <= 0.81


@pytest.mark.parametrize(
    "text", ["", "+", "110", "+49", "+999123456789", "12345678", "+1 201 555 01234567890", "2024-01-02", "abc"]
)
def test_what_is_no_phone_is_refused(text: str) -> None:
    assert form_of("phone", text).startswith("!")


def test_phones_are_shown_in_groups() -> None:
    assert display("phone", "+12015550123") == "+1 201-555-0123"


# The examples of the IBAN registry (ISO 13616).
IBANS = [
    "AD1200012030200359100100", "AE070331234567890123456", "AT611904300234573201", "BE68539007547034", "BG80BNBG96611020345678",
    "BR1800360305000010009795493C1", "CH9300762011623852957", "DE89370400440532013000", "DK5000400440116243", "EE382200221020145685",
    "ES9121000418450200051332", "FI2112345600000785", "FR1420041010050500013M02606", "GB29NWBK60161331926819", "GR1601101250000000012300695",
    "HU42117730161111101800000000", "IE29AIBK93115212345678", "IL620108000000099999999", "IT60X0542811101000000123456", "LU280019400644750000",
    "MT84MALT011000012345MTLCAST001S", "NL91ABNA0417164300", "NO9386011117947", "PL61109010140000071219812874", "PT50000201231234567890154",
    "SA0380000000608010167519", "SE4550000000058398257466", "TR330006100519786457841326", "VA59001123000012345678",
]  # fmt: skip


@pytest.mark.parametrize("example", IBANS)
def test_ibans_of_the_registry_are_read_in_any_grouping(example: str) -> None:
    assert (
        form_of("iban", display("iban", example))
        == form_of("iban", example.lower())
        == form_of("iban", f"IBAN: {example}")
        == example
    )
    wrong = example[:-1] + ("1" if example[-1] != "1" else "2")
    assert "check digits" in form_of("iban", wrong)


def test_ibans_agree_with_the_library_of_standard_numbers() -> None:
    for example in IBANS:
        for country in ("DE", "XX", "GB"):
            rest = example[4:]
            check = 98 - int("".join(str(int(character, 36)) for character in rest + country + "00")) % 97
            text = f"{country}{check:02d}{rest}"
            try:
                expected = stdnum_iban.validate(text, check_country=False)
            except Exception:  # noqa: BLE001 - the library has many
                expected = "!"
            assert form_of("iban", text).split(" ")[0] == expected


# Test numbers that the networks publish.
CARDS = [
    "378282246310005",
    "30569309025904",
    "6011111111111117",
    "3530111333300000",
    "5555555555554444",
    "2223003122003222",
    "4111111111111111",
    "6240008631401148",
]


@pytest.mark.parametrize("example", CARDS)
def test_cards_are_read_in_any_grouping(example: str) -> None:
    column = column_of(
        "card", example, display("card", example), display("card", example).replace(" ", "-"), f" {example}"
    )
    assert column.values.to_pylist() == [example] * 4
    assert column.confidence.to_pylist() == [1] * 4
    assert "Luhn" in form_of("card", example[:-1] + str((int(example[-1]) + 1) % 10))


def test_the_check_digit_is_luhns_for_every_length() -> None:
    digits = [str(number)[:length] for number in range(7**22, 7**22 + 400, 7) for length in range(11, 20)]
    column = column_of("card", *digits)
    expected = [text if len(text) >= 12 and luhn.is_valid(text) else None for text in digits]
    assert column.values.to_pylist() == expected


def test_an_unknown_issuer_lowers_the_confidence() -> None:
    assert column_of("card", "9999999999999995").confidence[0].as_py() == pytest.approx(0.6)
