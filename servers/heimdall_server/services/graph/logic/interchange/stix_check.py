"""Whether an object is STIX: `stix2` says so, the library of OASIS' technical committee."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from heimdall_server.services.graph.logic.interchange.stix_times import shortened

REASON_CHARACTERS_MAX: Final = 300
_ID: Final = re.compile(r"[a-z0-9-]{1,100}--[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


class StixCheck:
    """Checks objects. Loads the library when it is made, which takes a good part of a second: in a thread."""

    def __init__(self, mask_text: Callable[[str], str]) -> None:
        """Load the library.

        Args:
            mask_text: Puts classes in place of personal data: reasons repeat what is wrong.
        """
        import stix2  # type: ignore[import-untyped]  # a second of CPU: only where something is imported

        self._parse: Callable[..., Any] = stix2.parse
        self._mask_text = mask_text

    def problem(self, object_: Mapping[str, Any]) -> str:
        """What is wrong with an object; empty: nothing.

        Custom objects and properties are allowed, as the standard has it. Takes some tenths of a millisecond.
        """
        if not isinstance(object_.get("type"), str) or not isinstance(object_.get("id"), str):
            return "it has no type or no id"
        type_ = object_["type"]
        if _ID.fullmatch(object_["id"]) is None or not object_["id"].startswith(f"{type_}--"):
            return "its id isn't its type, two hyphens and a UUID"
        if not _are_markings(object_):
            return "its markings aren't lists of ids, and of parts with an id each"
        try:
            # Half of a surrogate pair can't be kept anywhere.
            json.dumps(object_, ensure_ascii=False).encode()
            told = {key: shortened(value) if isinstance(value, str) else value for key, value in object_.items()}
            self._parse(told, allow_custom=True)
        except UnicodeEncodeError:
            return "it holds half of a surrogate pair"
        except RecursionError:
            return "it is nested too deep"
        except Exception as error:  # noqa: BLE001 - the library raises errors of a dozen kinds, and its patterns' parser others
            said = " ".join(str(error).split()) or type(error).__name__
            return self._mask_text(said[:REASON_CHARACTERS_MAX])
        return ""


def _are_markings(object_: Mapping[str, Any]) -> bool:
    """Whether markings have the shape that they must have: of custom objects the library doesn't look."""
    refs, parts = object_.get("object_marking_refs", []), object_.get("granular_markings", [])
    if not isinstance(refs, list) or not isinstance(parts, list):
        return False
    return all(isinstance(ref, str) for ref in refs) and all(isinstance(part, dict) for part in parts)
