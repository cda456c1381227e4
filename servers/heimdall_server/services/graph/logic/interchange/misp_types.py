"""Attributes of MISP's core format → the values that they are (MISP core format §2.4, and MISP's `describeTypes`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from heimdall_server.services.graph.logic.interchange.drafts import Thing
from heimdall_server.services.graph.logic.interchange.stix_values import ACCOUNT_HINT, HINTS

_SIMPLE: Final[Mapping[str, str]] = {
    "AS": "asn",
    "cdhash": "hash",
    "domain": "domain",
    "dst-ip": "ip",
    "hostname": "domain",
    "ip": "ip",
    "ip-dst": "ip",
    "ip-src": "ip",
    "mac-address": "mac",
    "mac-eui-64": "eui64",
    "mutex": "mutex",
    "regkey": "registry_key",
    "uri": "url",
    "url": "url",
    "user-agent": "user_agent",
    "vulnerability": "cve",
    "filename": "file",
    "campaign-name": "campaign",
    "threat-actor": "threat-actor",
    "cc-number": "card",
    "iban": "iban",
    "phone-number": "phone",
    "whois-registrant-phone": "phone",
    "btc": "crypto_wallet",
    "xmr": "crypto_wallet",
    "dash": "crypto_wallet",
    "passport-number": "passport",
    "passport-number-and-country": "passport",
    "date-of-birth": "birth_date",
    "bank-account-nr": "bank_account",
    **{name: name for name in ("md5", "imphash", "sha1", "sha224", "sha256", "sha384", "sha512", "ssdeep", "tlsh")},
    **dict.fromkeys(
        (
            "email",
            "email-src",
            "email-dst",
            "email-reply-to",
            "target-email",
            "whois-registrant-email",
            "dns-soa-email",
        ),
        "email",
    ),
    **dict.fromkeys(
        (
            "email-dst-display-name",
            "email-src-display-name",
            "first-name",
            "full-name",
            "last-name",
            "middle-name",
            "passenger-name-record-locator-number",
            "target-user",
            "whois-registrant-name",
            "github-username",
            "jabber-id",
            "twitter-id",
        ),
        "user-account",
    ),
}
_RENAMED: Final = {
    "sha512/224": "sha512_224",
    "sha512/256": "sha512_256",
    "sha3-224": "sha3_224",
    "sha3-256": "sha3_256",
    "sha3-384": "sha3_384",
    "sha3-512": "sha3_512",
    "x509-fingerprint-md5": "md5",
    "x509-fingerprint-sha1": "sha1",
    "x509-fingerprint-sha256": "sha256",
    "hassh-md5": "md5",
    "hasshserver-md5": "md5",
    "ja3-fingerprint-md5": "md5",
    "pehash": "sha1",
}
_TEXTS: Final = frozenset(
    """anonymised attachment authentihash boolean bro comment community-id cookie counter cpe datetime email-attachment email-body
    email-header email-message-id email-mime-boundary email-subject email-thread-index email-x-mailer favicon-mmh3 float gender
    gene-sequence github-organisation github-repository hex http-method identity-card-number impfuzzy integer issue-date-of-the-visa
    kusto-query link mime-type mobile-application-id named-pipe nationality onion-address other pattern-in-file pattern-in-memory
    pattern-in-traffic pdb pgp-private-key pgp-public-key place-of-birth port primary-residence process-state prtn sigma
    size-in-bytes snort stix2-pattern target-external target-location target-machine target-org telfhash text threat-actor-alias
    travel-details vhash visa-number weakness whois-creation-date whois-registrant-org whois-registrar windows-scheduled-task
    windows-service-displayname windows-service-name xmr-address yara zeek""".split()  # noqa: SIM905 - a list of words
)
"""Types that say something about something, or hold what must be run to mean anything."""
_GALAXY: Final = re.compile(r'misp-galaxy:([a-z0-9-]{1,64})="([^"]{1,400})"')
_CATALOGUE_ID: Final = re.compile(r"(.+) - ([A-Z]{1,3}[0-9]{4}(?:\.[0-9]{3})?)")
_CLUSTERS: Final[Mapping[str, str]] = {
    "backdoor": "malware",
    "banker": "malware",
    "botnet": "malware",
    "country": "country",
    "exploit-kit": "tool",
    "malpedia": "malware",
    "microsoft-activity-group": "threat-actor",
    "mitre-attack-pattern": "attack-pattern",
    "mitre-campaign": "campaign",
    "mitre-course-of-action": "course-of-action",
    "mitre-intrusion-set": "intrusion-set",
    "mitre-malware": "malware",
    "mitre-tool": "tool",
    "ransomware": "malware",
    "rat": "malware",
    "stealer": "malware",
    "threat-actor": "threat-actor",
    "tool": "tool",
}
_KNOWN_BY_ID: Final = frozenset({"attack-pattern", "course-of-action"})


def is_text(type_: str) -> bool:
    """Whether attributes of a type say nothing that the graph keeps."""
    return type_ in _TEXTS


def things_of(type_: str, value: str) -> tuple[Sequence[Thing], str, Sequence[str]]:
    """The values that an attribute is.

    Args:
        type_: Of MISP.
        value: As it came.

    Returns:
        The values; what the first one is to the others (`same-as`: they are one); further names of the first.

    Raises:
        ValueError: Attributes of the type name nothing that the graph knows, or this isn't one; the sentence says so.
    """
    if type_ == "malware-sample":
        type_ = "filename|md5"
    if "|" not in type_:
        return (_thing(type_, value),), "same-as", ()
    if "|" not in value:
        raise ValueError(f"its value has no | between its parts, as {type_} has")
    first, second = type_.split("|", 1)
    if first == "filename":
        name, digest = value.rsplit("|", 1)
        return (_thing(second, digest),), "same-as", (name,)
    left, right = value.split("|", 1)
    if (first, second) == ("domain", "ip"):
        return (_thing("domain", left), _thing("ip", right)), "resolves-to", ()
    return (_thing(first, left),), "same-as", ()  # with a port, a registry value


def cluster_of(tag: str) -> tuple[Thing, Sequence[str]] | None:
    """What a galaxy's tag speaks of, and its further names; None: it is another tag."""
    found = _GALAXY.fullmatch(tag)
    if found is None:
        return None
    galaxy, value = found.groups()
    type_ = _CLUSTERS.get(galaxy, f"x-misp-{galaxy}"[:64])
    catalogued = _CATALOGUE_ID.fullmatch(value)
    if catalogued is None:
        return Thing(type_, value), ()
    name, id_ = catalogued.groups()
    return (Thing(type_, id_), (name,)) if type_ in _KNOWN_BY_ID else (Thing(type_, name), (id_,))


def _thing(type_: str, value: str) -> Thing:
    if type_ in _SIMPLE:
        ours = _SIMPLE[type_]
    elif type_ in _RENAMED:
        ours = _RENAMED[type_]
    else:
        raise ValueError(f"attributes of type {type_} name nothing that the graph knows")
    return Thing(ours, value, ACCOUNT_HINT if ours == "user-account" else HINTS.get(ours, ours))
