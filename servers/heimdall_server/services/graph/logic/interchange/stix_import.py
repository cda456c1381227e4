"""STIX as a format of imports: each object is checked by `stix2`, then read; what waits for a marking is read at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from heimdall_server.domain.errors import FormatError
from heimdall_server.services.graph.logic.interchange.drafts import Context, Defaults, Draft, Notice, Refusal
from heimdall_server.services.graph.logic.interchange.stix_check import StixCheck
from heimdall_server.services.graph.logic.interchange.stix_reader import StixReader

WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of objects that wait for a definition of their marking."""


class StixImport:
    """Implements `importing.Reader`. For one thread at a time."""

    method = "stix-import"
    version = "2.1"
    array = "objects"

    def __init__(self, defaults: Defaults, mask_text: Callable[[str], str]) -> None:
        """Load `stix2`: make it in a thread.

        Args:
            defaults: Of the import.
            mask_text: Puts classes in place of personal data.
        """
        self._check = StixCheck(mask_text)
        self._reader = StixReader(defaults)
        self._waiting: list[tuple[int, Mapping[str, Any]]] = []
        self._waiting_bytes = 0

    def type_of(self, part: Mapping[str, Any]) -> str:
        """See `importing.Reader`."""
        type_ = part.get("type")
        return type_[:64] if isinstance(type_, str) else ""

    def read(self, part: Mapping[str, Any], number: int) -> Iterator[Draft]:
        """See `importing.Reader`."""
        if part.get("type") == "bundle":  # one without objects
            yield Context(str(part.get("id", "")), number)
            return
        problem = self._check.problem(part)
        if problem:
            ref, type_ = part.get("id"), self.type_of(part)
            yield Refusal(ref[:200] if isinstance(ref, str) else "", number, f"{type_ or 'an object'}: {problem}")
        elif part["type"] == "marking-definition":
            self._reader.learn(part)
            yield Context(str(part["id"]), number)
        elif self._reader.waits(part):
            self._wait(part, number)
        else:
            yield from self._reader.read(part, number)

    def finish(self) -> Iterator[Draft]:
        """See `importing.Reader`."""
        waiting, self._waiting = self._waiting, []
        for number, part in waiting:
            yield from self._reader.read(part, number)
        yield from map(Notice, self._reader.notices())

    def _wait(self, part: Mapping[str, Any], number: int) -> None:
        self._waiting_bytes += len(json.dumps(part))
        if self._waiting_bytes > WAITING_BYTES_MAX:
            problem = "too many objects stand before the definitions of their markings; put those first"
            raise FormatError("stix", problem)
        self._waiting.append((number, part))
