r"""Rules for values that a label in the text gives away: `dob: 1985-03-12`, `"passport_no":"…"`, `lat=48.8566`.

A label comes in two kinds: words long enough to tell wherever they stand (`date_of_birth`, also at the end of
`customerDateOfBirth`), and short ones that must begin a word and have a sign behind them (`dob=`). What a class's labels
are is written once, for texts and for names of attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from heimdall_server.protect.rules import SPARSE, Check, Rule
from heimdall_server.protect.stems import folded

_BEGINS: Final = r"(?:^|[^A-Za-z0-9]|\\{1,7}[bfnrt])"
QUOTE: Final = r"""(?:\\*["'])?"""
SIGN: Final = r"(?:[ \t]{0,3}(?:=>|:=|[:=#])[ \t]{0,3}|>)"
"""Also the end of an element's name in XML."""
_NO: Final = r"(?i:[ _.-]?(?:number|num|nr|no|id|code)\.?)?"
_NO_OF_SHORT: Final = r"(?i:[ _.-]n(?:umber|um|r|o)\.?)?"
"""What a label may end in."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What a class's values are called. Alternatives of a regex, lower-case, without groups; `_` stands for any joint."""

    telling: str = ""
    """Words that tell wherever they stand."""
    short: str = ""
    """Words that must begin a word and have a sign behind them."""
    stems: tuple[str, ...] = ()
    """Of each label one is a part; see `stems`."""
    spaced: str = ""
    """Short words behind which a blank will do: their values tell by a checksum or their form."""

    def inner(self) -> str:
        """`telling` as a regex."""
        return self.telling.replace("_", "[ _.-]?")

    def alone(self) -> str:
        """`short` as a regex."""
        return self.short.replace("_", "[ _.-]?")

    def before(self, *, sign: bool) -> str:
        """Everything in front of a value: label, sign, quotes.

        Args:
            sign: Whether `telling` needs one, too.
        """
        blanks = r"[ \t]{1,3}(?:is[ \t]{1,3})?"
        signs = SIGN if sign else f"(?:{SIGN}|{blanks})"
        before = self.followed_by(QUOTE + signs, QUOTE + SIGN) + QUOTE
        spaced = self.spaced.replace("_", "[ _.-]?")
        return f"(?:{before}|{_BEGINS}(?i:{spaced}){_NO_OF_SHORT}{blanks})" if spaced else before

    def before_number(self) -> str:
        """Everything in front of a bare number of JSON."""
        return self.followed_by("", "") + r'"[ \t\r\n]*:[ \t\r\n]*'

    def followed_by(self, behind_telling: str, behind_short: str) -> str:
        """Any label, with a regex behind it."""
        telling = rf"(?i:{self.inner()}){_NO}\.?{behind_telling}"
        short = rf"{_BEGINS}(?i:{self.alone()}){_NO_OF_SHORT}{behind_short}"
        parts = (pattern for pattern, label in ((telling, self.telling), (short, self.short)) if label)
        return f"(?:{'|'.join(parts)})"


def labelled(
    name: str,
    data_class: str,
    labels: Labels,
    value: str,
    *,
    number: str = "",
    sign: bool = True,
    check: Check | None = None,
) -> tuple[Rule, ...]:
    r"""Make the rules for a labelled value.

    Args:
        name: Of the rule; the one for bare numbers of JSON gets `json_` in front.
        data_class: The class.
        labels: What it is called.
        value: Regex without groups; what is personal.
        number: Regex for what may stand as a bare number (or an array of them) in JSON; it has to become a string there.
        sign: Whether a long label needs a sign (`:`, `=`) behind it.
        check: A test of the match, whose group 1 is all in front of the value.
    """
    gate, stems = folded(labels.stems), labels.stems
    before = labels.before(sign=sign)
    text = Rule(name, data_class, gate, rf"({before})(?:{value})", check=check, group=SPARSE, stems=stems)
    if not number:
        return (text,)
    bare = rf"({labels.before_number()})(?:{number})"
    json = Rule(
        f"json_{name}", data_class, gate, bare, opening='"', closing='"', check=check, group=SPARSE, stems=stems
    )
    return json, text
