"""JSON that comes in pieces: its many small parts one by one, without ever holding the whole.

    { "type": "bundle", "objects": [ {…}, {…} ], … }    each object of `objects` is a part, the rest is the head
    [ {…}, {…} ]                                        each element
    {…} {…}                                             each document, where none of them has the array

A part is given as soon as it is complete. Its text is decoded by `json`, in C; a part that isn't complete yet is tried again only once
half as much again has come, so many pieces of one large part cost no more than twice its length.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Final

from heimdall_server.domain.errors import FormatError

PART_CHARACTERS_MAX: Final = 32 * 1024 * 1024
"""Of one part: an object of a bundle, an event."""
_DOUBT: Final = 64
"""Characters behind a mistake from which it is one: with fewer, the next bytes may complete it."""
_WORD: Final = re.compile(r"[-+.0-9A-Za-z]*")
_BLANK: Final = re.compile(r"[ \t\n\r]*")


class NoObject(dict[str, Any]):
    """Stands, empty, for an element of the array that is no object."""


class _At(Enum):
    """Where reading stands."""

    DOCUMENT = auto()
    KEY = auto()
    """In the head, before a key or the end."""
    ELEMENT = auto()
    """In the array, before an element or the end."""


def _no_constant(name: str) -> Any:  # noqa: ANN401 - json's hook
    raise ValueError(f"{name} is no JSON")


class JsonPieces:
    """Reads parts from bytes. `feed` may come with bytes cut anywhere; `close` once all have come."""

    def __init__(self, array: str, *, format_: str) -> None:
        """Begin.

        Args:
            array: The key whose array holds the parts.
            format_: What it is said to be, for errors.
        """
        self._array = array
        self._format = format_
        self._decoder = json.JSONDecoder(parse_constant=_no_constant)
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._passed = 0
        self._where = _At.DOCUMENT
        self._enclosed: list[_At] = []
        self._head: dict[str, Any] = {}
        self._has_array = False
        self._separated = True
        self._again_at = 0
        self.head: dict[str, Any] = {}
        """What stands beside the array, of the document that was begun last."""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The parts that are complete with these bytes.

        Raises:
            FormatError: It isn't such JSON.
        """
        try:
            self._text += self._utf8.decode(data)
        except UnicodeDecodeError:
            raise self._problem("it isn't UTF-8") from None
        if len(self._text) - self._at >= self._again_at:
            yield from self._parts()

    def close(self) -> Iterator[dict[str, Any]]:
        """The last parts.

        Raises:
            FormatError: It ends too early.
        """
        yield from self._parts(ended=True)
        self._blank()
        if self._where is not _At.DOCUMENT or self._at < len(self._text):
            raise self._problem("it ends before it is complete")

    def _parts(self, *, ended: bool = False) -> Iterator[dict[str, Any]]:
        while self._blank():
            step = {_At.DOCUMENT: self._document, _At.KEY: self._key, _At.ELEMENT: self._element}[self._where]
            before, where = self._at, self._where
            found = step(ended=ended)
            if found is not None:
                yield found
            elif self._at == before and self._where is where:
                break
        left = len(self._text) - self._at
        if left > PART_CHARACTERS_MAX:
            raise self._problem(f"a part of it is longer than {PART_CHARACTERS_MAX >> 20} MiB")
        self._again_at = left + left // 2 if left > 1 << 16 else 0
        self._passed += self._at
        self._text, self._at = self._text[self._at :], 0

    def _document(self, *, ended: bool) -> dict[str, Any] | None:  # noqa: ARG002 - one shape of step
        first = self._text[self._at]
        if first == "{":
            self._where, self._head, self._has_array = _At.KEY, {}, False
            self.head = self._head
        elif first == "[":
            self._where = _At.ELEMENT
        else:
            raise self._problem("it is neither an object nor an array")
        self._enclosed = [_At.DOCUMENT]
        self._at += 1
        self._separated = True
        return None

    def _key(self, *, ended: bool) -> dict[str, Any] | None:
        if self._ends("}"):
            self._where, self._separated = self._enclosed.pop(), True
            return None if self._has_array else self._head
        start = self._at
        key = self._value(ended=ended)
        if key is None or not self._blank():
            self._at = start
            return None
        if not isinstance(key[0], str) or self._text[self._at] != ":":
            raise self._problem("an object has keys in quotes, each with a colon behind it")
        self._at += 1
        if not self._blank():
            self._at = start
            return None
        if key[0] == self._array and self._text[self._at] == "[":
            self._has_array = True
            self._enclosed.append(_At.KEY)
            self._where, self._separated = _At.ELEMENT, True
            self._at += 1
            return None
        value = self._value(ended=ended)
        if value is None:
            self._at = start
            return None
        self._head[key[0]] = value[0]
        self._separate("}")
        return None

    def _element(self, *, ended: bool) -> dict[str, Any] | None:
        if self._ends("]"):
            self._where, self._separated = self._enclosed.pop(), True
            if self._where is _At.KEY:
                self._separate("}")
            return None
        value = self._value(ended=ended)
        if value is None:
            return None
        self._separate("]")
        return value[0] if isinstance(value[0], dict) else NoObject()

    def _ends(self, bracket: str) -> bool:
        if self._text[self._at] != bracket:
            if not self._separated:
                raise self._problem("a comma is missing")
            return False
        self._at += 1
        return True

    def _separate(self, bracket: str) -> None:
        """Behind a value: a comma, or the end, which may come with the next bytes."""
        self._separated = False
        if self._blank() and not self._separated and self._text[self._at] != bracket:
            raise self._problem("a comma is missing")

    def _value(self, *, ended: bool) -> tuple[Any] | None:
        """The next value; None: it isn't complete yet."""
        try:
            value, end = self._decoder.raw_decode(self._text, self._at)
        except ValueError as error:
            at = getattr(error, "pos", self._at)
            # What is wrong before the last characters won't get better by more of them.
            if ended or (not str(error).startswith("Unterminated string") and len(self._text[at:].strip()) > _DOUBT):
                raise self._problem(f"{getattr(error, 'msg', error)}", at) from None
            return None
        except RecursionError:
            raise self._problem("it is nested too deep") from None
        if not isinstance(value, dict | list | str):
            word = _WORD.match(self._text, self._at)
            word_end = end if word is None else word.end()
            if word_end == len(self._text) and not ended:
                return None  # a number may go on
            if word_end != end:
                raise self._problem("a number isn't one", end)
        self._at = end
        return (value,)

    def _blank(self) -> bool:
        """Pass over blanks, and a comma that came late; whether something is left."""
        found = _BLANK.match(self._text, self._at)
        self._at = self._at if found is None else found.end()
        if not self._separated and self._at < len(self._text) and self._text[self._at] == ",":
            self._at += 1
            self._separated = True
            return self._blank()
        return self._at < len(self._text)

    def _problem(self, what: str, at: int | None = None) -> FormatError:
        return FormatError(self._format, what, self._passed + (self._at if at is None else at))
