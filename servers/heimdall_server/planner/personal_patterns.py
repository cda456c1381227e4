"""Patterns and orders, which tokens don't have: refused on fields that hold tokens alone, and where a whole value stands in them.

So is the question for any value of a class, which no index tells.

For that a pattern's text is looked at without what makes it a pattern, only to see whether somebody put a whole personal value into a wildcard or a regex. A pattern that hides one on purpose
(`al[i]ce@…`) isn't seen through; it finds nothing either, since records hold tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.patterns import wildcard_parts
from heimdall_server.domain.expression.tree import Compare, Exists, Extract, Regex, Wildcard
from heimdall_server.planner.personal_knowledge import Knowledge, Span, refuse
from heimdall_server.planner.personal_shapes import literal_text

_CARD: Final = "card"
"""The one class that is looked for among numbers whatever their name."""
_WHOLE: Final = "ask for a whole value, without a pattern or a range"
_ESCAPED_PLAIN: Final = re.compile(r"\\([^A-Za-z0-9])")
_ESCAPED_CLASS: Final = re.compile(r"\\[A-Za-z]")
_CLASS_OF_ONE: Final = re.compile(r"\[([^\]^\\])\]")
_QUOTED: Final = re.compile(r"\\Q(.*?)(?:\\E|$)", re.DOTALL)
_GROUP_OPENING: Final = re.compile(r"\(\?(?:P?<[^>]*>|[A-Za-z-]*:|[A-Za-z-]+\))")
_GROUPING: Final = str.maketrans("", "", "()^$")


def spans_of(known: Knowledge, leaf: Compare, text: str) -> tuple[Span, ...]:
    """Values in the literal of a comparison; of a number only what is looked for among numbers."""
    spans = known.spans(text)
    if isinstance(leaf.value, str):
        return spans
    return tuple(span for span in spans if span == (0, len(text), _CARD))


def check_exists(known: Knowledge, leaf: Exists) -> None:
    """Refuse to ask for any value of a class: nothing in the index tells a token's class.

    Raises:
        QuerySyntaxError: The field is a class field.
    """
    if known.field_classes(leaf.field):
        refuse(
            leaf.field,
            f"values of {leaf.field} are tokens, which are found one by one, and not as any of them",
            f"ask for a whole value; an attribute of this name is _exists_:attributes.{leaf.field}",
        )


def check_order(known: Knowledge, leaf: Compare) -> None:
    """Refuse an order among tokens.

    Raises:
        QuerySyntaxError: The field holds tokens alone, or the literal a value.
    """
    text = literal_text(leaf.value)
    if text is None:
        return
    _check_field(known, leaf.field, "no order")
    if spans := spans_of(known, leaf, text):
        what = f"a value of the class {spans[0].data_class}"
        refuse(leaf.field, f"{what} stands here, of which records hold tokens, and those have no order", _WHOLE)


def check_pattern(known: Knowledge, leaf: Wildcard | Regex) -> None:
    """Refuse a pattern over tokens.

    Raises:
        QuerySyntaxError: The field holds tokens alone, or the pattern a value.
    """
    _check_field(known, leaf.field, "no parts")
    texts = wildcard_texts(leaf.pattern) if isinstance(leaf, Wildcard) else regex_texts(leaf.pattern)
    _check_texts(known, leaf.field, texts)


def check_extract(known: Knowledge, stage: Extract) -> None:
    """Refuse a pattern with a value in it.

    Raises:
        QuerySyntaxError: It has one.
    """
    if known.protected(stage.field):
        _check_texts(known, stage.field, regex_texts(stage.pattern))


def _check_field(known: Knowledge, ref: FieldRef, what: str) -> None:
    classes = known.field_classes(ref)
    named = known.named_class(ref) if ref.scope is not Scope.COMPUTED else None
    if classes or (named and not known.kept(named)):
        where = f"; an attribute of this name is attributes.{ref}" if classes else ""
        refuse(ref, f"values of {ref} are tokens, which are equal or not and have {what}", f"{_WHOLE}{where}")


def _check_texts(known: Knowledge, ref: FieldRef, texts: Iterable[str]) -> None:
    for text in texts:
        if spans := known.spans(text):
            what = f"a value of the class {spans[0].data_class}"
            refuse(ref, f"this pattern holds {what}, of which records hold tokens", _WHOLE)


def wildcard_texts(pattern: str) -> Iterator[str]:
    """A wildcard's text, as it is and with blanks for what it leaves open; capitals, since patterns on a text are lower-case."""
    parts = wildcard_parts(pattern)
    literal = "".join(part[-1] for part in parts)
    blank = "".join(part[1] if len(part) > 1 else " " for part in parts)
    yield literal
    yield blank
    if blank.upper() != blank:
        yield blank.upper()


def regex_texts(pattern: str) -> Iterator[str]:
    """A regex's text without backslashes, and without anchors and groups."""
    unquoted = _QUOTED.sub(lambda found: re.escape(found[1]), pattern)
    opened = _GROUP_OPENING.sub("(", unquoted)
    literal = _CLASS_OF_ONE.sub(r"\1", _ESCAPED_CLASS.sub(" ", _ESCAPED_PLAIN.sub(r"\1", opened)))
    yield literal
    bare = _CLASS_OF_ONE.sub(
        r"\1", _ESCAPED_CLASS.sub(" ", opened.replace(r"\(", "").replace(r"\)", "").translate(_GROUPING))
    )
    yield _ESCAPED_PLAIN.sub(r"\1", bare)
