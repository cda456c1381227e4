from __future__ import annotations

import pyarrow as pa
import pytest

from heimdall_server.canonical.catalogue import display
from heimdall_server.canonical.column import Change
from heimdall_server.canonical.domain import registrable_domains
from heimdall_server.canonical.email import email
from tests.unit.canonical.spellings import column_of, form_of


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Example.COM.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45\uff0e\uff43\uff4f\uff4d", "example.com"),
        ("exam\u00adple.com", "example.com"),
        ("evil[.]com", "evil.com"),
        ("evil(dot)com", "evil.com"),
        ("evil dot com", "evil.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("r3---sn-4g5e.googlevideo.com", "r3---sn-4g5e.googlevideo.com"),
        ("xn--n3h.net", "xn--n3h.net"),
    ],
)
def test_domains_are_written_as_on_the_wire(text: str, canonical: str) -> None:
    assert form_of("domain", text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "-a.com",
        "a-.com",
        "a b.com",
        "a.com/x",
        "192.0.2.1",
        "1.2.3.0x4",
        "a@b.com",
        "☃.net",
        "a" * 64 + ".com",
        "ab." * 90 + "com",
        "a\u202eb.com|",
        "x\u0000.com",
    ],
)
def test_what_no_domain_can_be_is_refused(text: str) -> None:
    assert form_of("domain", text).startswith("!")


def test_confidence_follows_the_public_suffix_list() -> None:
    column = column_of(
        "domain", "a.co.uk", "a.internal-network", "LOCALHOST", "_x.a.com", "xn--n3h.net", "b.internal-network."
    )
    assert column.confidence.to_pylist() == pytest.approx([1, 0.5, 0.3, 0.8, 0.6, 0.5])


@pytest.mark.parametrize(
    ("text", "flagged"),
    [
        ("p\u0430ypal.com", True),
        ("\u0430\u0440\u0440\u04cf\u0435.com", True),
        ("xn--80ak6aa92e.com", True),
        ("bücher.de", False),
        ("московскийтеатр.рф", False),
        ("ελληνικά.gr", False),
        ("東京.jp", False),
        ("paypal.com", False),
    ],
)
def test_confusable_names_are_flagged_and_kept(text: str, *, flagged: bool) -> None:
    column = column_of("domain", text)
    assert bool(column.changes[0].as_py() & Change.CONFUSABLE) == flagged
    canonical = column.values[0].as_py()
    assert display("domain", canonical) == (canonical if flagged else text)


def test_registrable_domains_are_below_a_public_suffix() -> None:
    values = pa.array(["a.b.example.co.uk", "example.com", "com", None, "x.y.github.io", "a.b.unknown-suffix"])
    assert registrable_domains(values).to_pylist() == [
        "example.co.uk",
        "example.com",
        None,
        None,
        "y.github.io",
        "b.unknown-suffix",
    ]


# RFC 3986 §5.4 (by §5.2.4), §6.2.2 and §6.2.3.
@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("HTTP://www.EXAMPLE.com/", "http://www.example.com/"),
        ("http://a.com", "http://a.com/"),
        ("http://a.com:/", "http://a.com/"),
        ("http://a.com:80/", "http://a.com/"),
        ("https://a.com:80/", "https://a.com:80/"),
        ("https://a.com:0443?q", "https://a.com/?q"),
        ("http://a.com/a/./b/../c", "http://a.com/a/c"),
        ("http://a.com/../../g", "http://a.com/g"),
        ("http://a.com/b/c/..", "http://a.com/b/"),
        ("http://a.com/%7euser/%e4%2fx", "http://a.com/~user/%E4%2Fx"),
        ("http://a.com/%2e%2e/b", "http://a.com/b"),
        ("http://a.com/ä b", "http://a.com/%C3%A4%20b"),
        ("http://a.com/100%", "http://a.com/100%25"),
        ("http://a.com/?B=2&a=1#Top", "http://a.com/?B=2&a=1#Top"),
        ("http://user:secret@a.com/", "http://user@a.com/"),
        ("http://:secret@a.com/", "http://a.com/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[2001:DB8::0:1]/", "http://[2001:db8::1]/"),
        ("http://[::ffff:192.0.2.1]/", "http://192.0.2.1/"),
        ("http://[fe80::1%25eth0]/", "http://[fe80::1]/"),
        ("hxxp://evil[.]com/a", "http://evil.com/a"),
        ("hXXps[://]evil(.)com[:]8080/a[.]php", "https://evil.com:8080/a.php"),
        ("fxp://evil[.]com/", "ftp://evil.com/"),
        ("http://192[.]0[.]2[.]1/", "http://192.0.2.1/"),
        ("https://a.com/b[.]c?d=(at)", "https://a.com/b%5B.%5Dc?d=(at)"),
        ("urn:ISBN:0-395-36341-1", "urn:ISBN:0-395-36341-1"),
        ("file:///etc/../x", "file:///x"),
        ("foo:/.//a", "foo:/.//a"),
    ],
)
def test_urls_are_normalised_by_rfc_3986(text: str, canonical: str) -> None:
    assert form_of("url", text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/a",
        "/a/b",
        "http://",
        "http:a",
        "http://a b.com/",
        "http://a.com:99999/",
        "http://a.com:x/",
        "http://1.2.3.999/",
        "http://a..b/",
        "http://a\x00.com/",
        "x:",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    assert form_of("url", text).startswith("!")


def test_a_removed_password_is_told() -> None:
    column = column_of("url", "https://u:hunter2@a.com/")
    assert column.changes[0].as_py() == Change.PASSWORD
    assert "hunter2" not in column.values[0].as_py()


@pytest.mark.parametrize(
    ("type_name", "text", "changes"),
    [
        ("url", "HTTP://[2001:DB8::1]:80/%41", Change.CASE | Change.DEFAULT_PORT | Change.NOTATION),
        ("url", "https://a.com:0443/", Change.DEFAULT_PORT | Change.NOTATION),
        ("url", "hxxp://A[.]com/a/../b", Change.REFANGED | Change.CASE | Change.NOTATION),
        ("url", "http://%61@a.com/", Change.NOTATION),
        ("url", "URN:isbn:%41", Change.CASE | Change.NOTATION),
        ("ip", "[2001:DB8::1]", Change.LABEL | Change.CASE),
        ("ip", "::FFFF:1.2.3.4", Change.MAPPED),
        ("ip", "2001:0db8::1/48", Change.HOST_BITS | Change.NOTATION),
        ("ip", "1[.]2.3.4/255.255.255.0", Change.REFANGED | Change.HOST_BITS | Change.NOTATION),
        ("domain", " evil[.]com ", Change.TRIMMED | Change.REFANGED),
    ],
)
def test_everything_that_was_changed_is_told(type_name: str, text: str, changes: Change) -> None:
    assert Change(column_of(type_name, text).changes[0].as_py()) == changes


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Alice@Example.COM", "alice@example.com"),
        ("alice+news@example.com", "alice+news@example.com"),
        ("mailto:a%2Bb@c.com?subject=hi", "a+b@c.com"),
        ("<a@b.com>", "a@b.com"),
        ("alice(at)example[.]com", "alice@example.com"),
        ("alice at example dot com", "alice@example.com"),
        ('"alice"@example.com', "alice@example.com"),
        ('"al\\ice"@example.com', "alice@example.com"),
        ('"al ice"@example.com', '"al ice"@example.com'),
        ("user@[192.0.2.1]", "user@[192.0.2.1]"),
        ("user@[ipv6:2001:DB8:0::1]", "user@[IPv6:2001:db8::1]"),
        ("用户@例え.テスト", "用户@xn--r8jz45g.xn--zckzah"),
        ("a@bücher.de", "a@xn--bcher-kva.de"),
        ("\uff41\uff20\uff42.com", "a@b.com"),
        ("a\u200b@b.com", "a@b.com"),
        ("a..b@docomo.ne.jp", "a..b@docomo.ne.jp"),
    ],
)
def test_emails_are_normalised(text: str, canonical: str) -> None:
    assert form_of("email", text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "@b.com",
        "a@",
        "a b@c.com",
        "A <a@b.com>",
        "a@b@c.com",
        "a@-b.com",
        '"a@b.com',
        "a(b)@c.com",
        "a" * 65 + "@b.com",
        "a@[1.2.3]",
        "a@1.2.3.4",
    ],
)
def test_what_is_no_email_is_refused(text: str) -> None:
    assert form_of("email", text).startswith("!")


def test_the_case_of_the_local_part_is_a_parameter() -> None:
    values = pa.array(["Alice@Example.com", "bob@Example.com"])
    kept = email(values, local="keep")
    assert kept.values.to_pylist() == ["Alice@example.com", "bob@example.com"]
    assert kept.confidence.to_pylist() == [1, 1]
    assert email(values).confidence.to_pylist() == pytest.approx([0.95, 1])
