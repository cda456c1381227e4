"""Texts with tokens in place of the personal values in them: every way in which a record may have one text.

One record was protected under one epoch, and by one policy for its source and field: so all values in a text are tokens of the same epoch,
and values of one class are either all tokens or all in plain.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from heimdall_server.domain.expression.literals import words_of
from heimdall_server.domain.expression.tree import Words
from heimdall_server.domain.personal import WORD_PATTERN, token
from heimdall_server.planner.personal_knowledge import Span

_FREE_CLASSES_MAX: Final = 3
"""Classes that may be kept or tokenised, up to which every mixture is asked for."""
_MAIL_ENDING: Final = re.compile(
    "com|net|org|edu|gov|mil|info|biz|eu|de|uk|fr|nl|ch|pl|cz|se|dk|fi|pt|gr|hu|ro|ru|br|cn|jp|kr|au|nz|ca|mx|za"
)
"""Ends of addresses that are no words of their own: `failed to log in` is not `failed@to.log.in`."""
_TOKEN_WORD: Final = re.compile(WORD_PATTERN, re.ASCII)


def outside(text: str, spans: Sequence[Span]) -> bool:
    """Words stand outside the only span: it is part of a phrase."""
    return len(spans) != 1 or bool(words_of(text[: spans[0].start]) or words_of(text[spans[0].end :]))


def mixtures(spans: Sequence[Span], kept: frozenset[str]) -> Iterator[frozenset[str]]:
    """Sets of classes whose values a record may have in plain, but for all of them.

    Args:
        spans: Values of a text.
        kept: Classes that may be in plain.
    """
    classes = {span.data_class for span in spans}
    free = sorted(classes & kept)
    sizes: Sequence[int] = range(len(free) + 1) if len(free) <= _FREE_CLASSES_MAX else (0, len(free))
    for size in sizes:
        if size < len(classes):
            yield from map(frozenset, itertools.combinations(free, size))


def replaced(text: str, spans: Sequence[Span], words: Mapping[Span, str], plain: frozenset[str]) -> str:
    """A text with tokens.

    Args:
        text: As it was typed.
        spans: Values in it, in order.
        words: What each is named by.
        plain: Classes that stay.
    """
    pieces: list[str] = []
    copied = 0
    for span in spans:
        if span.data_class not in plain:
            pieces += (text[copied : span.start], token(span.data_class, words[span]))
            copied = span.end
    return "".join((*pieces, text[copied:]))


def guesses(leaf: Words) -> Iterator[str]:
    """What may have stood between words of which nobody kept the text; only whole values are looked for in these."""
    words = leaf.words
    if any(map(_TOKEN_WORD.fullmatch, words)):
        return
    yield from dict.fromkeys(sep.join(words) for sep in (" ", "", ".", "-"))
    if all(word.isascii() and word.isdigit() for word in words):
        yield f"+{' '.join(words)}"
        return
    yield ":".join(words)
    if _MAIL_ENDING.fullmatch(words[-1]):
        for gap in range(1, len(words)):
            yield f"{'.'.join(words[:gap])}@{'.'.join(words[gap:])}"
