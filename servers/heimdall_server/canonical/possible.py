"""Whether a text that somebody typed can be a value of a class of personal data at all, and if not, why."""

from __future__ import annotations

import re
from typing import Final

from heimdall_server.canonical.catalogue import TYPE_OF_CLASS, TYPES
from heimdall_server.canonical.column import Refused
from heimdall_server.canonical.phone import NO_COUNTRY

_SEPARATORS: Final = re.compile(r"[,;\s]+")
_SEVERAL: Final = "it is several values; name each by itself"
_NETWORK: Final = "it is a network; name single addresses"
_NO_DOT: Final = "its domain has no dot, and such addresses aren't found in texts"


def why_impossible(data_class: str, text: str) -> str:
    """Why a text is no value of a class. The reason never holds the text.

    Args:
        data_class: Any class; one without a type takes every text.
        text: As it was typed.

    Returns:
        Empty: it may be one. A phone number without its country is: dumps have such columns.
    """
    type_name = TYPE_OF_CLASS.get(data_class)
    if type_name is None:
        return ""
    read = TYPES[type_name].read
    found = read(text)
    if isinstance(found, Refused):
        if found == NO_COUNTRY:
            return ""
        parts = [part for part in _SEPARATORS.split(text.strip()) if part]
        several = len(parts) > 1 and not any(isinstance(read(part), Refused) for part in parts)
        return _SEVERAL if several else found.reason
    if type_name in ("ipv4", "ipv6") and "/" in found.value:
        return _NETWORK
    domain = found.value.rpartition("@")[2]
    return _NO_DOT if type_name == "email" and "." not in domain and not domain.startswith("[") else ""
