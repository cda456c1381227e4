"""What a frame says beside its records: dead letters, and sentences and names in them. Protected like records, or not kept.

| what | becomes |
|---|---|
| bytes of a dead letter that are text (UTF-8, UTF-16, or a single-byte encoding) | the same with each value treated by the rule for `dead_letter`, in their encoding |
| other bytes, which can't be searched | nothing, unless the policy keeps everything in `dead_letter` of that source |
| its reason, its field, texts of its context, names in a CSV's header, messages to exporters | masked, whatever the policy says; addresses of machines stay where the policy keeps them in a body |

What the policy would write in a value's own form is a token in a letter: it is protected again when it is decoded, and nobody could tell that form from a value.

Bytes that a decoder can't be given piecemeal (protobuf, Arrow) count as not searchable: what is replaced in them would break them, and
the lengths between their texts hide where one begins.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from heimdall_server.domain.decoding import FormatKind
from heimdall_server.ports.journal import DeadLetter, Entry, RequestMark, SourceMark

LOG: Final = logging.getLogger(__name__)
FIELD: Final = "dead_letter"
"""What a policy calls the bytes of dead letters."""
NOT_TEXT: Final = "its {} bytes aren't text and weren't kept"
NOT_PROTECTED: Final = "its {} bytes couldn't be protected and weren't kept; the server's log has the detail"
_CONTAINERS: Final = frozenset({FormatKind.OTLP.value, FormatKind.ARROW.value})
_CONTROLS: Final = bytes(byte for byte in (*range(32), 127) if byte not in b"\t\n\v\f\r\x1b")
_CONTROL_SHARE_MAX: Final = 0.02
"""Of bytes that no text has, in what is taken for text."""
_CONTROLS_FEW: Final = 4
"""So many of them hide nothing."""
_WIDE: Final = re.compile(rb"(?:[ -~]\0){3}|(?:\0[ -~]){3}")
"""UTF-16, or what else would hide a text between zeros."""

_LETTERS: Final = re.compile(rb"[0-9A-Za-z\x80-\xff]")
_LOOKED_AT: Final = 65_536
"""Characters by which it is told whether a text was read in the right encoding."""

Protect = Callable[[Sequence[str], Sequence[str]], Sequence[str | None]]
"""Sources and texts of dead letters to what is kept of the texts; None: nothing."""
Mask = Callable[[Sequence[str]], Sequence[str]]
"""Texts with masks in place of personal data."""
_UNMASKED: Final = frozenset({"dataset", "source", "tlp", "zone"})
"""Parts of a letter's context that a configuration or the server itself named."""


def text_of(raw: bytes) -> tuple[str, str] | None:
    """Bytes as text that rules can search, and its encoding; None: they aren't text."""
    if not _LETTERS.search(raw):
        return raw.decode("latin-1"), "latin-1"
    if (b"\0" in raw and _WIDE.search(raw)) or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        order = "utf-16-be" if raw[:2] == b"\xfe\xff" or re.match(rb"\0[ -~]", raw) else "utf-16-le"
        try:
            text = raw.decode(order)
        except UnicodeDecodeError:
            return None
        # Read the wrong way round, or not UTF-16 at all, it would be made of strange letters and hold nothing that a rule knows.
        plain = sum(map(str.isascii, text[:_LOOKED_AT]))
        return (text, order) if 2 * plain > min(len(text), _LOOKED_AT) and "\0" not in text else None
    if len(raw) - len(raw.translate(None, _CONTROLS)) > max(_CONTROLS_FEW, _CONTROL_SHARE_MAX * len(raw)):
        return None
    try:
        return raw.decode(), "utf-8"
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"


def protected_entry(entry: Entry, *, keeps: Callable[[str], bool], protect: Protect, mask: Mask) -> Entry:
    """An entry in which all but the records is protected.

    Args:
        entry: As it would be written.
        keeps: Whether the policy keeps everything in the dead letters of a source.
        protect: Treats texts of letters.
        mask: Masks sentences and names.
    """
    letters = _kept(entry.dead_letters, keeps, protect)
    sentences = _Sentences(mask)
    for letter in letters:
        sentences.want(letter.reason, letter.field, *_strings(_loaded(letter.context)), *_header(letter.format))
    for request in entry.requests:
        sentences.want(request.message)
    for mark in entry.sources:
        sentences.want(*_header(mark.format))
    if not sentences.change_something():
        return replace(entry, dead_letters=letters)
    return replace(
        entry,
        dead_letters=[_letter(letter, sentences) for letter in letters],
        requests=[_request(request, sentences) for request in entry.requests],
        sources=[_mark(mark, sentences) for mark in entry.sources],
    )


def _kept(letters: Sequence[DeadLetter], keeps: Callable[[str], bool], protect: Protect) -> list[DeadLetter]:
    """Letters with what may be kept of their bytes."""
    kept = list(letters)
    texts: list[_Text] = []
    for index, letter in enumerate(letters):
        if letter.protected or not letter.raw or keeps(letter.key.source):
            continue
        found = None if _kind(letter.format) in _CONTAINERS else text_of(letter.raw)
        if found is None:
            kept[index] = _without_bytes(letter, NOT_TEXT)
        else:
            texts.append(_text(index, letter, *found))
    if texts:
        for text, after in zip(texts, _written(letters, texts, protect), strict=True):
            letter = letters[text.index]
            if after is None:
                kept[text.index] = _without_bytes(letter, NOT_PROTECTED)
            else:
                raw = text.glue.join([part.encode(text.encoding, "replace") for part in after if part is not None])
                kept[text.index] = replace(letter, raw=raw, protected=True, part_sizes=())
    return kept


def _without_bytes(letter: DeadLetter, why: str) -> DeadLetter:
    told = why.format(f"{len(letter.raw):,}")
    return replace(letter, raw=b"", reason=f"{letter.reason}; {told}", protected=True, part_sizes=())


@dataclass(frozen=True, slots=True)
class _Text:
    """A letter's bytes as text."""

    index: int
    parts: Sequence[str]
    """Its records: many short texts cost far less than a long one."""
    encoding: str
    glue: bytes = b""
    """What stands between them."""


def _text(index: int, letter: DeadLetter, text: str, encoding: str) -> _Text:
    count = len(letter.part_sizes)
    if count < 2 or encoding not in ("utf-8", "latin-1"):
        return _Text(index, [text], encoding)
    glue_size = (len(letter.raw) - sum(letter.part_sizes)) // (count - 1)
    ends = np.cumsum(letter.part_sizes) + glue_size * np.arange(count)
    starts = ends - np.array(letter.part_sizes)
    places = zip(starts.tolist(), ends.tolist(), strict=True)
    parts = [letter.raw[start:end].decode(encoding) for start, end in places]
    return _Text(index, parts, encoding, letter.raw[ends[0] : starts[1]])


def _written(
    letters: Sequence[DeadLetter], texts: Sequence[_Text], protect: Protect
) -> list[Sequence[str | None] | None]:
    """What is kept of each text; None: nothing, since it can't be protected."""
    try:
        written = iter(_protected(letters, texts, protect))
    except BaseException as error:  # a native library's panic is no Exception, and must cost its own letter only
        LOG.error("protection of dead letters failed", extra={"event": "protect.letters_failed"}, exc_info=error)
        if len(texts) == 1:
            return [None]
        return [one for text in texts for one in _written(letters, [text], protect)]
    return [list(itertools.islice(written, len(text.parts))) for text in texts]


def _protected(letters: Sequence[DeadLetter], texts: Sequence[_Text], protect: Protect) -> Sequence[str | None]:
    sources = [letters[text.index].key.source for text in texts for _ in text.parts]
    return protect(sources, [part for text in texts for part in text.parts])


class _Sentences:
    """Distinct short texts, masked together."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._texts: dict[str, str] = {}

    def want(self, *texts: str) -> None:
        """These are needed masked."""
        self._texts.update((text, text) for text in texts if text)

    def change_something(self) -> bool:
        """Mask them; whether any is another one now."""
        before = list(self._texts)
        self._texts = dict(zip(before, self._mask(before), strict=True)) if before else {}
        return any(text != after for text, after in self._texts.items())

    def __getitem__(self, text: str) -> str:
        return self._texts[text] if text else text


def _letter(letter: DeadLetter, sentences: _Sentences) -> DeadLetter:
    return replace(
        letter,
        reason=sentences[letter.reason],
        field=sentences[letter.field],
        context=_context(letter.context, sentences),
        format=_format(letter.format, sentences),
    )


def _request(request: RequestMark, sentences: _Sentences) -> RequestMark:
    return replace(request, message=sentences[request.message])


def _mark(mark: SourceMark, sentences: _Sentences) -> SourceMark:
    return replace(mark, format=_format(mark.format, sentences))


def _context(text: str, sentences: _Sentences) -> str:
    content = _loaded(text)
    changed = {name: sentences[value] for name, value in content.items() if _is_ours(name, value)}
    if all(content[name] == value for name, value in changed.items()):
        return text
    return json.dumps(content | changed, separators=(",", ":"))


def _format(text: str, sentences: _Sentences) -> str:
    names = _header(text)
    masked = [sentences[name] for name in names]
    if masked == names:
        return text
    content = _loaded(text)
    content["options"]["header"] = json.dumps(_distinct(masked), ensure_ascii=False)
    return json.dumps(content, separators=(",", ":"), sort_keys=True)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns, of which a CSV has no two alike; a number behind those that became so."""
    taken, distinct = set(names), dict[str, None]()
    for name in names:
        chosen, number = name, 1
        while chosen in distinct or (number > 1 and chosen in taken):
            number += 1
            chosen = f"{name} {number}"
        distinct[chosen] = None
    return list(distinct)


def _header(text: str) -> list[str]:
    """Names in the header of a CSV's format."""
    if '"header"' not in text:
        return []
    return [str(name) for name in json.loads(_loaded(text)["options"]["header"])]


def _kind(text: str) -> str:
    return str(_loaded(text).get("kind", ""))


def _loaded(text: str) -> dict[str, Any]:
    return dict(json.loads(text)) if text else {}


def _strings(content: dict[str, Any]) -> list[str]:
    return [value for name, value in content.items() if _is_ours(name, value)]


def _is_ours(name: str, value: object) -> bool:
    return isinstance(value, str) and name not in _UNMASKED
