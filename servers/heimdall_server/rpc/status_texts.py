"""Takes personal values out of what a status says: an error repeats a caller's words, and travels on into logs and tickets of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf import message
from google.rpc import error_details_pb2

from heimdall_server.domain import errors

_ECHOING: Final = (errors.InvalidInputError, errors.NotFoundError, errors.ConflictError, errors.QueryCostError)
"""Errors whose sentences hold what a caller wrote."""
_CHARACTERS_MAX: Final = 4096
"""Of a text that is masked; what stands behind is cut off."""


class _Masking:
    """What is done to such texts, in the whole process."""

    mask: Callable[[str], str] = staticmethod(str)


def mask_texts(mask: Callable[[str], str]) -> None:
    """Choose what is put in place of personal values; until then texts stay as they are.

    Args:
        mask: Thread-safe, and quick for texts of some hundred characters.
    """
    _Masking.mask = staticmethod(mask)


def masking_for(error: BaseException) -> Callable[[str], str]:
    """What an error's texts go through."""
    return _masked if isinstance(error, _ECHOING) else str


def mask_details(details: message.Message, mask: Callable[[str], str]) -> None:
    """Treat the texts of a status's details, in place."""
    if isinstance(details, error_details_pb2.BadRequest):
        for violation in details.field_violations:
            violation.field, violation.description = mask(violation.field), mask(violation.description)


def _masked(text: str) -> str:
    return _Masking.mask(text[:_CHARACTERS_MAX])
