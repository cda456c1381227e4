from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.catalogue import display
from heimdall_server.canonical.column import Change
from heimdall_server.canonical.country_table import COUNTRIES
from heimdall_server.canonical.hashes import HASH_TYPES, algorithm_in, file_hash
from heimdall_server.canonical.timestamps import timestamp, timestamps_ns
from tests.unit.canonical.spellings import column_of, form_of, forms_of

MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    ("digits", "algorithm"),
    [(32, "md5"), (40, "sha1"), (56, "sha224"), (64, "sha256"), (96, "sha384"), (128, "sha512")],
)
def test_hashes_are_told_apart_by_length(digits: int, algorithm: str) -> None:
    text = ("aB3" * 50)[:digits]
    assert form_of("hash", text) == f"{algorithm}:{text.lower()}"
    assert form_of(algorithm, text) == text.lower()


@pytest.mark.parametrize(
    ("context", "text", "algorithm"),
    [
        ("pe.imphash", MD5, "imphash"),
        ("file.hash.sha3_256", "ab" * 32, "sha3_256"),
        ("SHA3-512", "ab" * 64, "sha3_512"),
        ("sha512/256", "ab" * 32, "sha512_256"),
        ("file_md5", MD5, "md5"),
        ("imphash", "ab" * 32, "sha256"),
        ("checksum", MD5, "md5"),
    ],
)
def test_the_fields_name_tells_what_the_length_cannot(context: str, text: str, algorithm: str) -> None:
    for spelling in (text, text.upper(), f" {text}"):
        column = file_hash(pa.array([spelling]), context=context)
        assert column.values.to_pylist() == [f"{algorithm}:{text}"]
        told = algorithm_in(context) == algorithm
        assert column.confidence[0].as_py() == pytest.approx(1.0 if told else 0.9)


def test_a_label_is_believed_and_checked() -> None:
    assert form_of("hash", f"IMPHASH={MD5.upper()}") == f"imphash:{MD5}"
    assert form_of("md5", f"MD5: {MD5}") == MD5
    assert form_of("md5", f"sha1:{MD5}") == "! it says that it is another hash"
    assert form_of("hash", f"sha256:{MD5}") == "! it doesn't have the digits of this hash"
    assert form_of("hash", "abc123").startswith("! no hash")
    assert form_of("hash", "x" * 32).startswith("! it is not written")


def test_fuzzy_hashes_keep_their_own_writing() -> None:
    ssdeep = "768:p7xinhXznVJ8CC1rBXdo0zekXUd3CdPJxB7mNmDZkUKMKZQbFTiKKAZTy:ps7nXzn/8rbXdsekXUd3"
    assert form_of("ssdeep", f'{ssdeep},"a file.exe"') == ssdeep
    assert form_of("hash", ssdeep) == f"ssdeep:{ssdeep}"
    assert form_of("ssdeep", ssdeep.replace("768", "769")).startswith("!")
    tlsh = "faac" * 17 + "0b"
    assert forms_of("tlsh", tlsh, f"T1{tlsh}", f"t1{tlsh}") == [f"T1{tlsh.upper()}"] * 3
    assert form_of("tlsh", tlsh[:-1]).startswith("!")


def test_every_hash_type_has_a_rule() -> None:
    assert {"md5", "sha1", "sha256", "sha512", "sha3_512", "ssdeep", "tlsh", "imphash"} <= set(HASH_TYPES)


@pytest.mark.parametrize(
    "text",
    [
        "00-1A-2B-3C-4D-5E",
        "00:1a:2b:3c:4d:5e",
        "001a.2b3c.4d5e",
        "001A2B3C4D5E",
        "0:1a:2b:3c:4d:5e",
        "00\u201010-1A-2B-3C-4D-5E".replace("\u201010", ""),
    ],
)
def test_macs_are_written_with_colons(text: str) -> None:
    assert form_of("mac", text) == "00:1a:2b:3c:4d:5e"


def test_what_is_no_hardware_address_is_refused() -> None:
    for text in (
        "00-1A:2B-3C-4D-5E",
        "00-1A-2B-3C-4D",
        "00-1A-2B-3C-4D-5E-6F-70",
        "001a:2b3c:4d5e",
        "g0:1a:2b:3c:4d:5e",
        "",
    ):
        assert form_of("mac", text).startswith("!")
    assert form_of("eui64", "00-1A-2B-FF-FE-3C-4D-5E") == "00:1a:2b:ff:fe:3c:4d:5e"


def test_autonomous_systems_are_written_in_asplain() -> None:
    assert forms_of("asn", "AS64512", "as64512", "64512", "AS1.0", "ASN 7", "AS4294967295") == [
        "AS64512",
        "AS64512",
        "AS64512",
        "AS65536",
        "AS7",
        "AS4294967295",
    ]
    assert forms_of("asn", "AS4294967296", "AS65536.1", "AS", "AS-1") == [None] * 4


def test_cves_and_uuids() -> None:
    assert forms_of("cve", "cve-2021-44228", "CVE_2014_0160", "CVE-2020-000123") == [
        "CVE-2021-44228",
        "CVE-2014-0160",
        "CVE-2020-0123",
    ]
    assert forms_of("cve", "CVE-1998-0001", "CVE-2021", "2021-44228") == [None] * 3
    uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
    assert forms_of("uuid", uuid.upper(), f"urn:uuid:{uuid}", f"{{{uuid}}}", uuid.replace("-", "")) == [uuid] * 4
    assert forms_of("uuid", uuid[:-1], uuid.replace("-", "", 1), f"{{{uuid}") == [None] * 3


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("C:/Windows/System32/../notepad.EXE", "c:\\windows\\notepad.exe"),
        ("\\\\?\\C:\\Temp\\a.txt", "c:\\temp\\a.txt"),
        ("\\\\?\\UNC\\Server\\Share\\x", "\\\\server\\share\\x"),
        ("C:\\a\\..\\..\\b. ", "c:\\b"),
        ("c:", "c:\\"),
        ("C:\\f.txt:stream", "c:\\f.txt:stream"),
        ("%TEMP%\\X.exe", "%temp%\\x.exe"),
        ("/usr//local/./bin/", "/usr/local/bin"),
        ("/usr/../etc", "/usr/../etc"),
        ("//host/x", "//host/x"),
        ("///x", "/x"),
        ("/Tmp/A b", "/Tmp/A b"),
        ("./x/y", "x/y"),
        ("/", "/"),
        ("/cafe\u0301", "/café"),
    ],
)
def test_paths_are_written_as_their_system_reads_them(text: str, canonical: str) -> None:
    assert form_of("file_path", text) == canonical


def test_what_is_no_path_is_refused() -> None:
    assert forms_of("file_path", "", "a\x00b", "C:relative", "\\\\server", "C:\\a|b", "./A\\b") == [None] * 6


def test_registry_keys_have_their_hive_in_full() -> None:
    run = "HKEY_LOCAL_MACHINE\\software\\microsoft\\windows\\currentversion\\run"
    rest = "Software\\Microsoft\\Windows\\CurrentVersion\\Run"
    for text in (
        f"HKLM\\{rest}",
        f"hklm:\\{rest}\\",
        f"Computer\\HKEY_LOCAL_MACHINE\\{rest}",
        f"\\REGISTRY\\MACHINE\\{rest}",
        f"Registry::HKLM\\{rest}",
    ):
        assert form_of("registry_key", text) == run
    assert forms_of("registry_key", "Software\\X", "", "C:\\x") == [None] * 3


def test_user_agents_keep_their_case() -> None:
    assert form_of("user_agent", " Mozilla/5.0   (X11;\tLinux)") == "Mozilla/5.0 (X11; Linux)"
    assert column_of("user_agent", "curl/8.4.0", "-").confidence.to_pylist() == [1, 0.5]


def test_countries_are_read_from_codes_and_names() -> None:
    assert len(COUNTRIES) == len({country.alpha3 for country in COUNTRIES}) == 249
    for country in COUNTRIES:
        spellings = (
            country.alpha2,
            country.alpha2.lower(),
            country.alpha3,
            *country.names,
            *(name.upper() for name in country.names),
        )
        assert forms_of("country", *spellings) == [country.alpha2] * len(spellings)
        assert display("country", country.alpha2) == country.names[0]
    assert forms_of(
        "country", "Cote dIvoire", "the gambia", "Bosnia & Herzegovina", "U.S.A.", "Türkiye", "TURKIYE"
    ) == ["CI", "GM", "BA", "US", "TR", "TR"]
    assert forms_of("country", "Korea", "XX", "Atlantis", "") == [None] * 4


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05.000000000Z"),
        ("2024-01-02 03:04:05,5+02:30", "2024-01-02T00:34:05.500000000Z"),
        ("2024-01-02T03:04:05.1234567899Z", "2024-01-02T03:04:05.123456789Z"),
        ("20240102T030405.25Z", "2024-01-02T03:04:05.250000000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000000Z"),
        ("2024-01-02T24:00:00Z", "2024-01-03T00:00:00.000000000Z"),
        ("10/Oct/2000:13:55:36 -0700", "2000-10-10T20:55:36.000000000Z"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37.000000000Z"),
        ("Sunday, 06-Nov-1994 08:49:37 GMT", "1994-11-06T08:49:37.000000000Z"),
        ("Sun Nov  6 08:49:37 1994", "1994-11-06T08:49:37.000000000Z"),
        ("1700000000", "2023-11-14T22:13:20.000000000Z"),
        ("1700000000.25", "2023-11-14T22:13:20.250000000Z"),
        ("1700000000123", "2023-11-14T22:13:20.123000000Z"),
        ("1700000000123456", "2023-11-14T22:13:20.123456000Z"),
        ("1700000000123456789", "2023-11-14T22:13:20.123456789Z"),
        ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500000000Z"),
    ],
)
def test_times_are_in_utc_to_the_nanosecond(text: str, canonical: str) -> None:
    assert form_of("timestamp", text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "03/04/2024",
        "2024-02-30",
        "2024-01-02T25:00:00Z",
        "2024-01-02T03:04:05+25:00",
        "12345",
        "1600-01-01T00:00:00Z",
        "2300-01-01",
        "now",
        "2024-13-01",
        "9" * 20,
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    assert form_of("timestamp", text).startswith("!")


@given(st.lists(st.datetimes(dt.datetime(1678, 1, 1), dt.datetime(2261, 1, 1), timezones=st.timezones()), min_size=1))  # noqa: DTZ001
def test_times_are_those_of_the_standard_library(moments: list[dt.datetime]) -> None:
    shifted = [
        moment
        for moment in moments
        if (moment.utcoffset() or dt.timedelta()) % dt.timedelta(minutes=1) == dt.timedelta()
    ]
    column = timestamp(pa.array([moment.isoformat() for moment in shifted], pa.string()))
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    expected = [(moment - epoch) // dt.timedelta(microseconds=1) * 1000 for moment in shifted]
    assert timestamps_ns(column.values).to_pylist() == expected


def test_what_a_time_does_not_say_is_told_as_assumed() -> None:
    column = column_of("timestamp", "2024-01-02T03:04:05", "2024-01-02", "1700000000", "2024-01-02T03:04:05Z")
    assert [bool(changes & Change.ASSUMED) for changes in column.changes.to_pylist()] == [True, True, True, False]
    assert column.confidence.to_pylist() == pytest.approx([0.8, 0.5, 0.8, 1])
