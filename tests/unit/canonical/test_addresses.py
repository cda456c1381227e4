from __future__ import annotations

import ipaddress

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.addresses import ip, networks
from heimdall_server.canonical.column import Change
from tests.unit.canonical.spellings import column_of, form_of


# RFC 5952 §1, §2 and §4.
@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:0db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8::1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8::0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:DB8:0:0:1::1", "2001:db8::1:0:0:1"),
        ("2001:db8:aaaa:bbbb:cccc:dddd:0:1", "2001:db8:aaaa:bbbb:cccc:dddd:0:1"),
        ("2001:db8:aaaa:bbbb:cccc:dddd::1", "2001:db8:aaaa:bbbb:cccc:dddd:0:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("0:0:0:0:0:0:0:0", "::"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::13.1.68.3", "::d01:4403"),
        ("2001:db8:122:344::192.0.2.33", "2001:db8:122:344::c000:221"),
    ],
)
def test_ipv6_is_written_as_rfc_5952_says(text: str, canonical: str) -> None:
    assert form_of("ipv6", text) == form_of("ip", text) == canonical


@given(st.lists(st.ip_addresses(), min_size=1))
def test_addresses_are_those_of_the_standard_library(
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    written = pa.array([str(address) for address in addresses], pa.string())
    exploded = pa.array([address.exploded.upper() for address in addresses], pa.string())
    expected = [str(getattr(address, "ipv4_mapped", None) or address) for address in addresses]
    # The standard library writes ::a:b with a dotted part from Python 3.13 on; older ones don't.
    assert ip(written).values.to_pylist() == ip(exploded).values.to_pylist() == expected


@given(st.integers(0, 2**64 - 1), st.sampled_from(["0", "1"]), st.integers(0, 255))
def test_addresses_with_many_zeros_are_those_of_the_standard_library(low: int, head: str, mask: int) -> None:
    groups = [f"{(low >> (8 * at)) & 0xFF:x}" if mask >> at & 1 else "0" for at in range(8)]
    groups[0] = head
    texts = [":".join(groups), str(ipaddress.IPv6Address(":".join(groups)))]
    address = ipaddress.IPv6Address(texts[0])
    assert ip(pa.array(texts)).values.to_pylist() == [str(address.ipv4_mapped or address)] * 2


@pytest.mark.parametrize(
    ("text", "canonical", "change"),
    [
        (" 192.0.2.1\n", "192.0.2.1", Change.TRIMMED),
        ("192[.]0[.]2[.]1", "192.0.2.1", Change.REFANGED),
        ("192.0.2[.1", "192.0.2.1", Change.REFANGED),
        ("1\uff192.0.2.1", "192.0.2.1", Change.CHARACTERS),
        ("192.0.\u200b2.1", "192.0.2.1", Change.CHARACTERS),
        ("::ffff:192.0.2.1", "192.0.2.1", Change.MAPPED),
        ("::ffff:c000:201", "192.0.2.1", Change.MAPPED),
        ("fe80::1%eth0", "fe80::1", Change.ZONE),
        ("[2001:db8::1]", "2001:db8::1", Change.LABEL),
        ("192.0.2.1/24", "192.0.2.0/24", Change.HOST_BITS),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24", Change.NOTATION),
        ("192.0.2.1/32", "192.0.2.1", Change.NOTATION),
        ("2001:db8::/32", "2001:db8::/32", Change.NONE),
        ("2001:DB8::/32", "2001:db8::/32", Change.CASE),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8", Change.MAPPED),
        ("0.0.0.0/0", "0.0.0.0/0", Change.NONE),
    ],
)
def test_what_was_changed_is_told(text: str, canonical: str, change: Change) -> None:
    column = column_of("ip", text)
    assert column.values.to_pylist() == [canonical]
    assert Change(column.changes[0].as_py()) == change


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("192.0.02.1", "octal"),
        ("192.0.2.1:80", "port"),
        ("[2001:db8::1]:443", "port"),
        ("192.0.2.256", "not an IP address"),
        ("192.0.2", "not an IP address"),
        ("3221225985", "not an IP address"),
        ("0x7f.1", "not an IP address"),
        ("1::2::3", "not an IP address"),
        ("192.0.2.0/33", "prefix length"),
        ("192.0.2.0/255.0.255.0", "prefix length"),
        ("2001:db8::/129", "prefix length"),
        ("12:34:56", "not an IP address"),
    ],
)
def test_what_could_be_another_address_is_refused(text: str, reason: str) -> None:
    assert reason in form_of("ip", text)
    assert form_of("ip", text).startswith("!")


def test_versions_are_told_apart() -> None:
    assert form_of("ipv4", "::1") == "! it is an IPv6 address"
    assert form_of("ipv6", "192.0.2.1") == "! it is an IPv4 address"
    assert form_of("ipv4", "::ffff:192.0.2.1") == "192.0.2.1"
    assert form_of("ipv6", "::FFFF:c000:201") == "::ffff:192.0.2.1"


def test_networks_of_addresses() -> None:
    values = pa.array(["192.0.2.77", "2001:db8:1:2::3", "192.0.0.0/16", "192.0.2.128/25", None, "x", "192.0.2.77"])
    assert networks(values).to_pylist() == [
        "192.0.2.0/24",
        "2001:db8:1::/48",
        None,
        "192.0.2.0/24",
        None,
        None,
        "192.0.2.0/24",
    ]
    assert networks(values, ipv4_bits=8, ipv6_bits=128).to_pylist()[:3] == [
        "192.0.0.0/8",
        "2001:db8:1:2::3",
        "192.0.0.0/8",
    ]
