"""Names that look like others (UTS 39 §4): told, never changed."""

from __future__ import annotations

import functools

from confusable_homoglyphs import categories, confusables  # type: ignore[import-untyped]

_UNSCRIPTED = frozenset({"COMMON", "INHERITED"})


@functools.lru_cache(maxsize=16384)
def looks_like_another(label: str) -> bool:
    """Whether a label could be taken for another one.

    Either letters of several scripts are mixed and one that isn't Latin has a double in Latin (a Cyrillic a in `paypal`), or every
    letter that isn't Latin has one (`apple` all in Cyrillic). Letters of one script with doubles here and there, as in any Greek
    word, are no sign.
    """
    if label.isascii():
        return False
    foreign = [
        character for character in dict.fromkeys(label) if not character.isascii() and _script(character) != "LATIN"
    ]
    if not foreign:
        return False
    doubled = [bool(confusables.is_confusable(character, preferred_aliases=["latin"])) for character in foreign]
    scripts = {_script(character) for character in label} - _UNSCRIPTED
    return any(doubled) if "LATIN" in scripts and len(scripts) > 1 else all(doubled)


def _script(character: str) -> str:
    return str(categories.alias(character))
