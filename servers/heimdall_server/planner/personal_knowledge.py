"""What a rewriting knows of fields, texts and the policy: each question asked once, and forgotten with the rewriting.

Fields come in three kinds. A *class field* (`email:`, `ip:`, `personal.name:`) asks for a value wherever it stands. A *protected* field
holds what protection left: tokens in place of values, or of the whole text where its name tells the class. In others nothing is protected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn, Protocol

from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldRef, Scope
from heimdall_server.domain.personal import CLASS_PATTERN, ENCRYPTED, HASHED, TOKEN, TokenName
from heimdall_server.planner.personal_values import (
    ADDRESS_CLASSES,
    PersonalForm,
    Reading,
    address_readings,
    is_canonical,
    own_reading,
    readings_of,
)

FindPersonal = Callable[[str], Sequence[tuple[int, int, str]]]
"""Where personal values stand in a text (characters, the end exclusive) and of which class each is: by the rules that protect records."""
ClassOfField = Callable[[str], str | None]
"""The class of what an attribute of this name holds, whatever the value looks like; None: its name doesn't tell."""

PROTECTED_FIELDS: Final = frozenset(
    {"body", "service", "host", "severity_text", "event_name", "scope_name", "scope_version", "dump"}
)
"""Core fields whose texts are protected."""
_ORDINARY_NAMES: Final = frozenset({"name", "address", "organisation", "geo", "cookie", "jwt", "secret"})
"""Classes that are names of ordinary fields, too (`name:nginx`): class fields only behind `personal.`."""
_PREFIX: Final = "personal."
_WRITTEN: Final = re.compile("|".join(one.pattern for one in (TOKEN, HASHED, ENCRYPTED)), re.ASCII)
"""What protection writes in place of values."""
_MASK: Final = re.compile(rf"\[{CLASS_PATTERN}\]", re.ASCII)
_ADDRESS: Final = "ip"


class PersonalPolicy(Protocol):
    """What the policy may do with a class somewhere: in some field of some source. Asked anew in each call."""

    def may_keep(self, data_class: str) -> bool:
        """Values of the class may stand in records in plain."""
        ...

    def may_tokenise(self, data_class: str) -> bool:
        """Values of the class may stand in records as tokens."""
        ...


class Span(NamedTuple):
    """A personal value in a text, in characters."""

    start: int
    end: int
    data_class: str


@dataclass(frozen=True, slots=True)
class Told:
    """Where knowledge comes from."""

    classes: frozenset[str]
    policy: PersonalPolicy
    find_personal: FindPersonal
    find_in_name: FindPersonal
    class_of_field: ClassOfField
    personal_form: PersonalForm
    prefixes: tuple[int, int]


class Knowledge:
    """Answers for one rewriting. Not thread-safe: it remembers plain values, and so must not live longer."""

    def __init__(self, told: Told) -> None:
        """Know nothing yet."""
        self._told = told
        self._tokenised: dict[str, bool] = {}
        self._kept: dict[str, bool] = {}
        self._spans: dict[str, tuple[Span, ...]] = {}
        self._clean_names: set[str] = set()

    def tokenised(self, data_class: str | None) -> bool:
        """Values of the class may be tokens."""
        if data_class is None or data_class not in self._told.classes:
            return False
        known = self._tokenised.get(data_class)
        if known is None:
            known = self._tokenised[data_class] = self._told.policy.may_tokenise(data_class)
        return known

    def kept(self, data_class: str) -> bool:
        """Values of the class may stand there in plain."""
        known = self._kept.get(data_class)
        if known is None:
            known = self._kept[data_class] = self._told.policy.may_keep(data_class)
        return known

    def prefix(self, version_class: str) -> int:
        """Bits of the networks by which addresses are found; 0: by none."""
        return self._told.prefixes[ADDRESS_CLASSES.index(version_class)]

    def field_classes(self, ref: FieldRef) -> tuple[str, ...]:
        """The classes that may be tokenised which a class field means; empty: it isn't one, or there is nothing to find by tokens."""
        if ref.scope is not Scope.ANY:
            return ()
        name = ref.name.removeprefix(_PREFIX)
        if name == _ADDRESS or name in ADDRESS_CLASSES:
            return tuple(filter(self.tokenised, ADDRESS_CLASSES if name == _ADDRESS else (name,)))
        ordinary = name in _ORDINARY_NAMES and name == ref.name
        return (name,) if not ordinary and self.tokenised(name) else ()

    def named_class(self, ref: FieldRef) -> str | None:
        """The class that an attribute's name tells, if its values may be tokens."""
        if ref.scope is Scope.CORE or is_core(ref):
            return None
        found = self._told.class_of_field(ref.name)
        return found if self.tokenised(found) else None

    def readings(self, ref: FieldRef, classes: Sequence[str], text: str) -> tuple[Reading, ...]:
        """What a value of a class field may be known by; empty: it is no value of those classes."""
        if classes[0] in ADDRESS_CLASSES:
            return tuple(each for each in address_readings(text) if self.tokenised(each.data_class))
        data_class = classes[0]
        # `card:visa` is about an ordinary attribute; a mistyped number isn't.
        if not any(map(str.isdigit, text)) and not is_canonical(data_class, text):
            named = self._told.class_of_field(ref.name)
            return self.readings_of(data_class, text) if named == data_class else ()
        return self.readings_of(data_class, text)

    def readings_of(self, data_class: str, text: str) -> tuple[Reading, ...]:
        """What a value of a class may be known by."""
        readings = readings_of(data_class, text, self._told.personal_form)
        return tuple(each for each in readings if self.tokenised(each.data_class))

    def reading_in(self, text: str, span: Span) -> Reading:
        """What the value in a text is known by."""
        return own_reading(span.data_class, text[span.start : span.end], self._told.personal_form)

    def spans(self, text: str) -> tuple[Span, ...]:
        """Values in a text that may be tokens, in order. What stands in a token or its like isn't one."""
        found = self._spans.get(text)
        if found is None:
            written = [match.span() for match in _WRITTEN.finditer(text)]
            found = self._spans[text] = tuple(
                span
                for span in sorted(Span(*each) for each in self._told.find_personal(text))
                if self.tokenised(span.data_class)
                and not any(start < span.end and span.start < end for start, end in written)
            )
        return found

    def token_name(self, data_class: str, text: str) -> TokenName | None:
        """The token that somebody asked for in place of a value of a class, with its class or without."""
        if is_canonical(data_class, text):
            return TokenName.parse(text)
        return TokenName.parse(text) or TokenName.parse(f"{data_class}:{text}")

    @staticmethod
    def is_value(text: str) -> bool:
        """Not empty, and not what protection wrote in place of a value."""
        return bool(text) and not (_WRITTEN.fullmatch(text) or _MASK.fullmatch(text))

    def protected(self, ref: FieldRef) -> bool:
        """Values in this field are treated."""
        return not is_core(ref) or ref.name in PROTECTED_FIELDS

    def check_name(self, ref: FieldRef) -> None:
        """Refuse a name that is, or holds, a personal value.

        Raises:
            QuerySyntaxError: It does.
        """
        name = ref.name
        if is_core(ref) or name in self._clean_names:
            return
        if any(self.tokenised(data_class) for _, _, data_class in self._told.find_in_name(name)):
            shown = f"{ref.scope}.…" if ref.scope in (Scope.ATTRIBUTES, Scope.RESOURCE) else "…"
            refuse(
                shown,
                "a name in this query holds a personal value, and in records it is a token there",
                "name the field by its token, as a record shows it",
            )
        self._clean_names.add(name)


def is_core(ref: FieldRef) -> bool:
    """A column of the schema, or what a stage made of it under its name."""
    return ref.scope is Scope.CORE or (ref.scope is Scope.COMPUTED and ref.name in CORE_FIELDS)


def refuse(field: object, problem: str, suggestion: str = "") -> NoReturn:
    """Refuse a term: say which field it is about, never what was asked.

    Raises:
        QuerySyntaxError: Always.
    """
    raise QuerySyntaxError(f"{field}:…", 0, problem, suggestion)
