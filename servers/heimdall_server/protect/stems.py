r"""Stems of labels: literal beginnings of what rules look for, as one lean regex.

The automaton of a gate is built anew in each call, and each of its states costs by the number of alternatives that begin at
once. So the stems of all rules are folded into one tree by their letters, in which few begin at once whatever their number.

In a stem, `_` stands for any joint of words or none, a final `=` for a sign behind a short word, a final `~` for a blank there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from typing import Final

_JOINTS: Final = ("", "_", " ", "-", ".")
_JOINT: Final = "[ _.-]?"
_SIGN: Final = r"""(?:[ _.-]n|["'\\ \t\r\n]{0,8}[:=#]|>)"""
"""Behind a short label: a sign, or the `no`, `nr`, `num` of a longer label."""
_BLANK: Final = "[ \t][0-9A-Za-z \t]"
_END: Final = ""

_Tree = dict[str, "_Tree"]


def folded(stems: Collection[str]) -> str:
    """A regex that matches, unanchored, in every text that holds a stem in whatever case; empty without stems.

    For polars and `re`; without groups and anchors.
    """
    return f"(?i:{_written(_tree(stems), {'_': _JOINT, '=': _SIGN, '~': _BLANK})})" if stems else ""


def _tree(texts: Collection[str]) -> _Tree:
    tree: _Tree = {}
    for text in texts:
        node = tree
        for letter in text:
            node = node.setdefault(letter, {})
        node[_END] = {}
    return tree


def _written(node: _Tree, elements: Mapping[str, str]) -> str:
    # Where a stem ends, longer ones are found, too.
    if _END in node:
        return ""
    branches = [elements.get(letter, re.escape(letter)) + _written(child, elements) for letter, child in node.items()]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def literals(stems: Collection[str]) -> tuple[str, ...]:
    """Every way to write stems, lower-case: one of them is in each lower-cased text that holds a stem."""
    found: dict[str, None] = {}
    for stem in stems:
        pieces = stem.removesuffix("=").removesuffix("~").split("_")
        for joints in itertools.product(_JOINTS, repeat=len(pieces) - 1):
            text = "".join(itertools.chain.from_iterable(zip(pieces, (*joints, ""), strict=True)))
            found[text] = None
    return tuple(found)
