"""Ways of writing a value that once were overlooked, and what looks like them."""

from __future__ import annotations

import base64
import codecs

import pyarrow as pa
import pytest

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.protect.keys import in_parts
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.value_terms import ValueTerms
from tests.unit.protect.reference import batch_of

POLICY = PrivacyPolicy(rules=(PrivacyRule("mask"),))
PROTECTOR = PolicyProtector(POLICY)
TERMS = ValueTerms(lambda: POLICY)
WALLET = "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"


def masked(*texts: str) -> list[str]:
    bodies: list[str] = PROTECTOR.protect(batch_of([{"body": text} for text in texts])).batch["body"].to_pylist()
    return bodies


def attributes(values: dict[str, str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = PROTECTOR.protect(batch_of([{"attributes": values}])).batch["attributes"][0].as_py()
    return found


KEYS = {
    "a@1.5555555555554444": "a@1.[card]",
    "x@1.DE02120300000000202051": "x@1.[iban]",
    "w@32473.zoe.leak@planted-mail.com": "w@32473.[email]",
    "w@1.2.3.call +4915559876543": "w@1.2.3.call [phone]",
    "a@555.234.5678.x": "a@[phone].x",
    "078-05-1120@32473.x": "[ssn]@32473.x",
    "x@4111111111111111.shop": "[email]",
    "p@163.com.count": "[email]",
    "P@163.COM": "[email]",
    "ex@32473.eventSource": "ex@32473.eventSource",
    "timeQuality@1.2.3.tzKnown": "timeQuality@1.2.3.tzKnown",
    "junos@2636.1.1.1.2.40.action": "junos@2636.1.1.1.2.40.action",
    "ex@32473.communication": "ex@32473.communication",
}


@pytest.mark.parametrize("key", KEYS)
def test_of_a_parameter_of_structured_data_only_the_identifier_is_no_address(key: str) -> None:
    assert attributes({key: "v"}) == [(KEYS[key], "v")]
    written, copied = "", 0
    for start, end, data_class in TERMS.find_in_name(key):
        written += f"{key[copied:start]}[{data_class}]"
        copied = end
    assert written + key[copied:] == KEYS[key]
    assert len(in_parts(key)) == len(key)


@pytest.mark.parametrize(
    "hidden",
    [
        *map(chr, (*range(9), 0xB, 0xC, *range(0xE, 0x20), 0x7F, 0x80)), "\u3164", "\u115f", "\u1160", "\uffa0", "\u2067", "\ufff9",
        "\U000e0001", "\U000e0041", "\U000e007f", "\U000e0100", "\u200b\u200b", "\0\0\0", "\U000e0041\U000e0042",
    ],
    ids=ascii,
)  # fmt: skip
def test_characters_that_nobody_sees_hide_nothing(hidden: str) -> None:
    bodies = [
        f"of uma.nul{hidden}@planted-mail.com and",
        f"p{hidden}at.x@planted-mail.com",
        f"n 41{hidden}11111111111111 x",
    ]
    assert masked(*bodies) == ["of [email] and", "[email]", "n [card] x"]
    assert attributes({"a": bodies[1]}) == [("a", "[email]")]
    assert masked(f"a{hidden}b {hidden}c") == [f"a{hidden}b {hidden}c"]


@pytest.mark.parametrize("joint", ["\t", "\n", "\r", "\r\n"])
def test_what_separates_words_still_does(joint: str) -> None:
    assert masked(f"4111{joint}1111 1111 1111 a{joint}b@c.example") == [f"4111{joint}1111 1111 1111 a{joint}[email]"]


def test_a_zero_behind_a_value_may_also_end_it() -> None:
    assert masked("M=a@b.com\0PATH=/bin\0") == ["M=[email]\0PATH=/bin\0"]


@pytest.mark.parametrize("escape", ["%00", "%07", "\\u0000", "\\u001f", "\\\\u0000"])
def test_control_characters_may_be_escaped(escape: str) -> None:
    assert masked(f"n 4111{escape}111111111111 x", f"p{escape}at@planted-mail.com") == ["n [card] x", "[email]"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_that_came_in_as_a_string_has_its_values_found(encoding: str) -> None:
    wide = "for pat.x@planted-mail.com now".encode(encoding).decode()
    (body,) = masked(wide)
    assert body.replace("\0", "") == "for [email] now"
    assert attributes({"a": wide})[0][1] == body


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("text", ["pat.x@planted-mail.com", "user é pat.x@planted-mail.com 中"])
def test_base64_of_utf_16_is_replaced_by_what_is_left_of_the_text(encoding: str, marked: bool, text: str) -> None:
    mark = (codecs.BOM_UTF16_LE if encoding == "utf-16-le" else codecs.BOM_UTF16_BE) if marked else b""
    values = {
        "a": base64.b64encode(mark + text.encode(encoding)).decode(),
        "b": base64.urlsafe_b64encode(mark + text.encode(encoding)).decode().rstrip("="),
        "c": base64.b64encode(mark + "nothing to be seen".encode(encoding)).decode(),
        "d": base64.b64encode(mark + text.encode(encoding) + b"x").decode(),
    }
    wanted = text.replace("pat.x@planted-mail.com", "[email]")
    assert dict(attributes(values)) == {**values, "a": wanted, "b": wanted}


FOUND = {
    f"btc {WALLET}": "btc [crypto_wallet]",
    f"sent 0.5 BTC to {WALLET}": "sent 0.5 BTC to [crypto_wallet]",
    f"xbt={WALLET}": "xbt=[crypto_wallet]",
    "doge DH5yaieqoZN36fDVciNyRueRGvGLR3mr7L": "doge [crypto_wallet]",
    '{"ltc": "LM2WMpR1Rp6j3Sa59cMXMs1SPzj9eXpGc1"}': '{"ltc": "[crypto_wallet]"}',
    "NINO AB123456C": "NINO [national_id]",
    "dni 12345678Z ok": "dni [national_id] ok",
    "his bsn is 111222333.": "his bsn is [national_id].",
    "cpf 11144477735": "cpf [national_id]",
    "dob 1984-07-23": "dob [birth_date]",
    "D.O.B. 23.07.1984": "D.O.B. [birth_date]",
    "card 4111.1111.1111.1111.": "card [card].",
    'to "john doe"@planted.com x': "to [email] x",
    '{"m": "to \\"john doe\\"@planted.com"}': '{"m": "to [email]"}',
    "ivy[at]planted-mail[.]com": "[email]",
    "ivy (at) planted-mail (dot) com": "[email]",
    "ivy@planted-mail[.]co[.]uk": "[email]",
    "a@b@planted.com x": "[email] x",
    "alice@corp.example@bastion.example": "[email]@bastion.example",
}


def test_what_has_a_label_without_a_sign_or_another_joint_is_masked_one_by_one_and_in_a_column() -> None:
    assert masked(*FOUND) == list(FOUND.values())
    many = [f"{number} {text}" for number in range(20) for text in FOUND]
    assert masked(*many) == [f"{number} {text}" for number in range(20) for text in FOUND.values()]
    assert masked(*FOUND.values()) == list(FOUND.values())


def test_what_only_looks_like_it_stays() -> None:
    lines = [
        f"btc {WALLET[:-1]}U",
        "dash 1a2b3c4d5e6f7g8h9iAjBkCmDnEoFpGq",
        "dni 12345678A, bsn 123456789, nino weather 1234, dob invalid, rut track 1234, cpf 12345678901",
        "4111.1111.1111.1112 10.4111.1111.1111.1111 4111.1111.1111.1111.5",
        'say "hello" and "x" @ 5, {"a":"b"}, items[at] x, look(at)this, a[.]b',
        "root@gateway@web-1 x@y@z",
        '{"value":"a","@odata.type":"x", "n":1,"@odata.id":[1, "@schema.org"], "y" "@a.type"}',
        r"{\"value\":\"a\",\"@odata.type\":\"x\"}",
    ]
    assert masked(*lines) == lines


def test_other_spellings_have_the_token_of_the_value() -> None:
    forms = personal_form("email", pa.array(["ivy[at]planted-mail[.]com", "ivy@planted-mail.com"])).to_pylist()
    cards = personal_form("card", pa.array(["4111.1111.1111.1111", "4111111111111111"])).to_pylist()
    assert forms[0] == forms[1]
    assert cards[0] == cards[1]


FORMS = {
    "user=zoe.leak%40planted-mail.com&pan=4111+1111+1111+1111&x=1": "user=[email]&pan=[card]&x=1",
    "pay=DE89+3704+0044+0532+0130+00&ok": "pay=[iban]&ok",
    "sum=4111+1111+1111+1112": "sum=4111+1111+1111+1112",
    "n=1+1111+2222+3333+4444": "n=1+1111+2222+3333+4444",
    "from=<root@[192.0.2.5]>, relay=none": "from=<[email]>, relay=none",
    "to zoe@[IPv6:2001:db8::5] at once": "to [email] at once",
    "users@[group] of x@[12]": "users@[group] of x@[12]",
}


@pytest.mark.parametrize("text", FORMS)
def test_blanks_of_a_form_and_addresses_at_a_machine_hide_nothing(text: str) -> None:
    assert masked(text) == [FORMS[text]]


def test_a_value_of_a_form_is_known_by_the_token_of_the_value() -> None:
    for data_class, text, known in (
        ("card", "4111+1111+1111+1111", "4111111111111111"),
        ("iban", "DE89+3704+0044+0532+0130+00", "DE89370400440532013000"),
        ("email", "Zoe@[192.0.2.5]", "zoe@[192.0.2.5]"),
    ):
        assert personal_form(data_class, pa.array([text])).to_pylist() == [known]
