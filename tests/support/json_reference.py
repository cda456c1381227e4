"""A slow, plain reading of JSON records, which the columnar one must agree with."""

from __future__ import annotations

import json
import math
from typing import Any

DEPTH_MAX = 64
Fields = dict[str, Any]


class _Pairs(list[tuple[str, Any]]):
    """An object, repeated keys kept."""


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


class BadRecordError(Exception):
    """Not one JSON object."""


def read(line: bytes) -> Fields:
    """A record's fields: dotted path to str, float, bool or ("json", value)."""
    try:
        value = json.loads(
            line.decode(),
            object_pairs_hook=_Pairs,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError) as error:
        raise BadRecordError from error
    if not isinstance(value, _Pairs) or _depth(value) > DEPTH_MAX or _has_surrogate(value):
        raise BadRecordError
    fields: Fields = {}
    _flatten(value, "", fields)
    return {path: found for path, found in fields.items() if found is not None}


def plain(value: Any) -> Any:
    """A value as `json.loads` would give it, for comparing JSON text."""
    if isinstance(value, _Pairs):
        return {key: plain(member) for key, member in value}
    if isinstance(value, list):
        return [plain(member) for member in value]
    return json.loads(value) if isinstance(value, _Number) else value


def _flatten(value: _Pairs, prefix: str, fields: Fields) -> None:
    for key, member in value:
        path = prefix + key
        if isinstance(member, _Pairs) and member:
            _flatten(member, f"{path}.", fields)
        elif isinstance(member, list):
            fields[path] = ("json", plain(member))
        elif isinstance(member, _Number):
            fields[path] = _number(member)
        else:
            fields[path] = member


def _number(text: _Number) -> float | str:
    whole = text.lstrip("-").isdigit()
    if (whole and len(text) > 300) or (whole and abs(int(text)) > 2**53) or math.isinf(float(text)):
        return str(text)
    return float(text)


def _depth(value: Any) -> int:
    if isinstance(value, _Pairs):
        return 1 + max((_depth(member) for _, member in value), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(member) for member in value), default=0)
    return 0


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, _Pairs):
        return any(_has_surrogate(key) or _has_surrogate(member) for key, member in value)
    if isinstance(value, list):
        return any(_has_surrogate(member) for member in value)
    return isinstance(value, str) and any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)


def _refuse(name: str) -> None:
    raise ValueError(name)
