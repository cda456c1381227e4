from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.protect.actions import ACTIONS, Action
from heimdall_server.protect.disguises import decoded_base64, disguised
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.readable import Readable
from heimdall_server.protect.spans import Spans
from heimdall_server.protect.texts import masked_text
from heimdall_server.protect.tokenise import Tokenise
from tests.unit.protect.reference import Row, batch_of, rows_of


class Names:
    """Words that show what they were made of."""

    live_epochs = (0,)

    def words(self, data_class: str, values: list[str]) -> list[str]:
        digests = [hashlib.sha256(f"{data_class} {value}".encode()).digest() for value in values]
        return [f"0{base64.b32encode(digest).decode().lower()[:26]}" for digest in digests]


class Sealer:
    """Remembers what it sealed."""

    def __init__(self) -> None:
        self.values: list[tuple[str, str]] = []

    def generation(self, data_class: str) -> int:
        del data_class
        return 1

    def seal_bytes(self, data_class: str, words: list[str], values: list[str]) -> tuple[int, list[bytes]]:
        self.values += [(data_class, value) for value in values]
        return 1, [b"" for _ in words]


VALUES = {
    "email": "alice.smith@example.com",
    "card": "4111111111111111",
    "phone": "+4915112345678",
    "iban": "DE89370400440532013000",
    "ssn": "078-05-1120",
}
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
ARABIC = {ord("0") + digit: 0x660 + digit for digit in range(10)}
BOLD = {ord("0") + digit: 0x1D7CE + digit for digit in range(10)}
DISGUISES: dict[str, Callable[[str], str]] = {
    "full width": lambda text: text.translate(FULL_WIDTH),
    "no width": lambda text: "\u200b".join(text),
    "soft hyphens": lambda text: "\u00ad".join(text),
    "percent": lambda text: "".join(f"%{ord(character):02X}" for character in text),
    "percent of signs": lambda text: text.replace("@", "%40").replace("+", "%2b").replace("1", "%31").replace("-", "%2D").replace("3", "%33"),
    "percent twice": lambda text: "".join(f"%25{ord(character):02x}" for character in text),
    "json": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
    "json in json": lambda text: "".join(f"\\\\u{ord(character):04X}" for character in text),
}  # fmt: skip
MASKING = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))


def masked(text: str) -> str:
    body: str = MASKING.protect(batch_of([{"body": text}])).batch["body"][0].as_py()
    return body


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("data_class", VALUES)
def test_a_disguised_value_goes_and_nothing_beside_it(data_class: str, disguise: str) -> None:
    hidden = DISGUISES[disguise](VALUES[data_class])
    assert masked(f"a%20b for {hidden}, é \\u003c") == f"a%20b for [{data_class}], é \\u003c"


@pytest.mark.parametrize("digits", [ARABIC, BOLD], ids=["arabic", "bold"])
def test_foreign_digits_are_digits(digits: dict[int, int]) -> None:
    assert masked(f"n {VALUES['card'].translate(digits)} x") == "n [card] x"
    assert masked(f"n {VALUES['phone'].translate(digits)} x") == "n [phone] x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET /x?mail=user%40host.com&next=%2Fhome%20page", "GET /x?mail=[email]&next=%2Fhome%20page"),
        ("password%3Dhunter2%26x", "password%3D[secret]%26x"),
        ("password=%61bc%20def x", "password=[secret] x"),
        ("https:\\/\\/user:pw@host\\/x", "https:\\/\\/user:[secret]@host\\/x"),
        ("password\uff1ahunter2", "password\uff1a[secret]"),
        ("card 4111\u00a01111\u202f1111\u20111111", "card 4111\u00a01111\u202f1111\u20111111"),
        ("card 4111\u00a01111\u00a01111\u00a01111 ok", "card [card] ok"),
        ("ssn 078\u201105\u20111120", "ssn [ssn]"),
        ("a@b.com and c%40d.com", "[email] and [email]"),
        (json.dumps({"m": json.dumps({"password": 12345})}), '{"m": "{\\"password\\": [secret]}"}'),
    ],
)
def test_where_the_label_or_the_joints_are_hidden(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "/a%20b/c%2Fd?e=%C3%A4%zz%4",
        "100% of 50%25 and 5%20",
        "redirect=https%3A%2F%2Fexample.com%2Fpath%3Fq%3D1",
        "中文,没有。\uff11\uff12\uff13,数字",
        "naïve café — “quoted” … 3\u2013 5 \u00a0x",
        "hi 👩\u200d👩\u200d👧❤\ufe0fbye\u200bnow",
        "C:\\users\\new \\u003cb\\u003e \\x41 \\",
        "\\u00fc\\ud83d\\ude00 \\u12",
        "order%3A%201234567890123",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("alice.smith@example.com", "[email]"),
        ('{"user":"alice.smith@example.com","n":1}', '{"user":"[email]","n":1}'),
        ("card 4111111111111111 of bob", "card [card] of bob"),
    ],
)
def test_base64_of_a_text_is_replaced_by_what_is_left_of_the_text(plain: str, expected: str) -> None:
    standard = base64.b64encode(plain.encode()).decode()
    url_safe = base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")
    found = MASKING.protect(batch_of([{"attributes": {"a": standard, "b": url_safe, "c": "x"}}]))
    assert dict(found.batch["attributes"][0].as_py()) == {"a": expected, "b": expected, "c": "x"}


def test_other_base64_stays() -> None:
    draw = random.Random(1)
    values = [base64.b64encode(draw.randbytes(draw.randrange(12, 90))).decode() for _ in range(500)]
    values += [base64.b64encode(b"nothing to be seen in here").decode(), "a" * 40, f"{draw.getrandbits(256):064x}"]
    batch = batch_of([{"attributes": {"note": value}} for value in values])
    assert PolicyProtector(PrivacyPolicy()).protect(batch).batch["attributes"] == batch["attributes"]
    assert decoded_base64(pa.array(values))[1] == ["nothing to be seen in here"]


def test_a_token_is_that_of_the_value_as_it_reads() -> None:
    sealer = Sealer()
    actions: dict[str, Action] = {**ACTIONS, "tokenise": Tokenise(Names(), sealer)}  # type: ignore[arg-type]
    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("tokenise"),)), actions)
    for data_class, value in VALUES.items():
        bodies = [f"x {value} y", *(f"x {disguise(value)} y" for disguise in DISGUISES.values())]
        written = protector.protect(batch_of([{"body": body} for body in bodies])).batch["body"].to_pylist()
        assert len(set(written)) == 1, (data_class, written)
        assert written[0].startswith(f"x [{data_class}:0")
    assert sorted({name for name, _ in sealer.values}) == sorted(VALUES)
    assert len(sealer.values) == len(VALUES)


@pytest.mark.parametrize("action", ["drop", "partial"])
def test_other_actions_work_on_what_is_hidden(action: str) -> None:
    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule(action),)))
    plain, hidden = "to alice.smith@example.com x", "to alice.smith%40example.com x"
    done = [protector.protect(batch_of([{"attributes": {"a": text}}])).batch["attributes"] for text in (plain, hidden)]
    assert done[0] == done[1]
    assert "smith" not in str(done[1])


def test_a_single_text_is_masked_as_it_reads() -> None:
    assert masked_text("for a%40b.example, b@c.example and 10.0.0.1") == "for [email], [email] and 10.0.0.1"
    assert masked_text("a%20b") == "a%20b"


PIECES = (
    "alice", "@", "%40", "\\u0040", "\uff20", "example.com", "\uff14\uff11\uff11\uff11", "4111", "1111", "\u200b", "\u00a0", "%20", "%31", "+49", "%2B49", "15112345678",
    "password", "=", "%3D", "\uff1a", "\\\"", "\\\\", "%", "%25", "é", "中", "😀", "[email]", "[secret]", "\u0661", " ", "-", "078", "05", "1120", "\\u00", ":",
    "\\/", "://", "eyJhbGciOiJI", "YWxpY2VAZXhhbXBsZS5jb20=",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=10).map("".join)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_what_is_read_can_be_found_in_what_stands(texts: list[str]) -> None:
    read = Readable(pl.Series(texts, dtype=pl.String))
    whole = [len(text.encode()) for text in read.texts]
    spans = read.original(Spans.of((row, 0, length) for row, length in enumerate(whole)))
    for row, text in enumerate(texts):
        raw = text.encode()
        piece = raw[spans.starts[row] : spans.ends[row]]
        assert Readable(pl.Series([piece.decode()], dtype=pl.String)).texts[0] == read.texts[row]


def test_a_text_reads_the_same_behind_one_that_ends_with_a_backslash() -> None:
    bodies = [r"kept in C:\logs" + "\\", r"\u0061nna\u0040planted.example"]
    protected = MASKING.protect(batch_of([{"body": body} for body in bodies])).batch
    assert protected["body"].to_pylist() == [bodies[0], "[email]"]
    texts = pl.Series(["\\\\", '\\"'])
    assert Readable(texts).texts.to_list() == ["\\\\", '"']


@pytest.mark.parametrize(
    "hidden", ["\u200b", "\u200d", "\u2060", "\ufeff", "\xad", "\u200e", "\u180e", "\ufe0f", "\u034f"]
)
def test_what_nobody_sees_neither_ends_a_value_nor_belongs_to_it_behind_its_end(hidden: str) -> None:
    bodies = [f"of ivy.hid{hidden}den@planted.example{hidden} and", f"4111 11{hidden}11 1111 1111", f"a{hidden}b"]
    protected = MASKING.protect(batch_of([{"body": body} for body in bodies])).batch
    assert protected["body"].to_pylist() == [f"of [email]{hidden} and", "[card]", f"a{hidden}b"]


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_protecting_twice_is_protecting_once(texts: list[str]) -> None:
    rows: list[Row] = [{"body": text, "attributes": {"a": text}, "overflow": text[::-1]} for text in texts]
    once = MASKING.protect(batch_of(rows)).batch
    assert rows_of(MASKING.protect(once).batch) == rows_of(once)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(), max_size=5))
def test_any_text_is_read_without_a_failure(texts: list[str]) -> None:
    assert len(Readable(pl.Series(texts, dtype=pl.String)).texts) == len(texts)
    assert set(disguised(pa.array(texts, pa.string())).tolist()) <= set(range(len(texts)))
    MASKING.protect(batch_of([{"body": text} for text in texts] or [{"body": ""}]))
