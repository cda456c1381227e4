from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import stix2  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.catalogue import CANONICALISERS, TYPES
from heimdall_server.canonical.identity import PERSONAL_TYPES, entity_ids, personal_entity_ids
from heimdall_server.canonical.stix import HASH_NAMES, STIX_TYPES, sco_ids

ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


def mac_under(key: bytes) -> Callable[[bytes], bytes]:
    return lambda message: hmac.digest(key, message, "sha256")


def test_ids_are_the_same_everywhere_and_for_ever() -> None:
    assert entity_ids("domain", pa.array(["example.com", None])).to_pylist() == [
        "domain-1sy23gznv5n2qrldbcu4g64ly2onfssjk",
        None,
    ]
    keyed = personal_entity_ids("email", pa.array(["a@b.com"]), mac_under(b"k" * 32)).to_pylist()
    assert keyed == ["email-kwglpmwd6x7einf4bypmwzj6lbzhaejsw"]


def test_ids_depend_on_type_value_kind_and_key() -> None:
    values = pa.array(["10.0.0.1"])
    ids = [
        entity_ids("ipv4", values)[0].as_py(),
        entity_ids("ip", values)[0].as_py(),
        personal_entity_ids("ipv4", values, mac_under(b"k" * 32))[0].as_py(),
        personal_entity_ids("ipv4", values, mac_under(b"l" * 32))[0].as_py(),
        personal_entity_ids("ipv4", values, lambda message: hashlib.sha256(message).digest())[0].as_py(),
    ]
    assert len({one.partition("-")[2] for one in ids}) == 5
    assert all(ID.fullmatch(one) for one in ids)


def test_type_and_value_cannot_run_into_each_other() -> None:
    first = entity_ids("ab", pa.array(["c"]))[0].as_py()
    second = entity_ids("a", pa.array(["bc"]))[0].as_py()
    assert first.partition("-")[2] != second.partition("-")[2]


@pytest.mark.parametrize("type_name", sorted(PERSONAL_TYPES))
def test_personal_types_have_no_id_without_a_key(type_name: str) -> None:
    assert type_name in TYPES
    with pytest.raises(ValueError, match="identity key"):
        entity_ids(type_name, pa.array(["x"]))


def test_a_short_mac_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        personal_entity_ids("email", pa.array(["a@b.com"]), lambda _: b"short")


def stix_object(type_name: str, value: str) -> Any:
    match type_name:
        case "ipv4":
            return stix2.IPv4Address(value=value)
        case "ipv6":
            return stix2.IPv6Address(value=value)
        case "domain":
            return stix2.DomainName(value=value)
        case "url":
            return stix2.URL(value=value)
        case "email":
            return stix2.EmailAddress(value=value)
        case "mac":
            return stix2.MACAddress(value=value)
        case "asn":
            return stix2.AutonomousSystem(number=int(value[2:]))
        case "registry_key":
            return stix2.WindowsRegistryKey(key=value)
        case _:
            return stix2.File(hashes={HASH_NAMES[type_name]: value.removeprefix("T1")})


EXAMPLES = {
    "ipv4": "198.51.100.3",
    "ipv6": "2001:db8::1",
    "domain": "xn--bcher-kva.example",
    "url": "https://example.com/research/index.html?a=%22#x",
    "email": '用户+"x@example.com',
    "mac": "d2:fb:49:24:37:18",
    "asn": "AS15139",
    "registry_key": "HKEY_LOCAL_MACHINE\\system\\ü",
    "md5": "d41d8cd98f00b204e9800998ecf8427e",
    "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512": "ab" * 64,
    "sha3_256": "cd" * 32,
    "sha3_512": "ef" * 64,
    "ssdeep": "96:gS/mFkCpXTWLr/PbKQHbr/S/mFkCpXTWLr/PbKQHbrB:Tu6SXTWGQHbeu6SXTWGQHbV",
    "tlsh": "T1" + "6F" * 35,
}


@pytest.mark.parametrize("type_name", sorted(EXAMPLES))
def test_stix_ids_are_those_of_the_reference_library(type_name: str) -> None:
    value = EXAMPLES[type_name]
    assert sco_ids(type_name, pa.array([value])).to_pylist() == [stix_object(type_name, value).id]


@given(st.ip_addresses(), st.binary(min_size=32, max_size=32))
def test_stix_ids_of_addresses_and_hashes_are_those_of_the_reference_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, digest: bytes
) -> None:
    written = CANONICALISERS["ip"](pa.array([str(address)])).values
    value = written[0].as_py()
    expected = stix2.IPv6Address(value=value) if ":" in value else stix2.IPv4Address(value=value)
    assert sco_ids("ip", written).to_pylist() == [expected.id]
    hashed = CANONICALISERS["hash"](pa.array([digest.hex()])).values
    assert sco_ids("hash", hashed).to_pylist() == [stix2.File(hashes={"SHA-256": digest.hex()}).id]


def test_what_stix_has_no_object_for_has_no_id() -> None:
    assert set(EXAMPLES) | {"ip", "hash"} == STIX_TYPES
    assert sco_ids("phone", pa.array(["+4930123456", None])).to_pylist() == [None, None]
    assert sco_ids("hash", pa.array([f"imphash:{EXAMPLES['md5']}"])).to_pylist() == [None]
