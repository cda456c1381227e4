"""Searching by a personal value: every value of a tokenised class in a query becomes its tokens before the query leaves the planner.

| asked | becomes |
|---|---|
| a class (`email:`, `ip:`, `personal.name:`) | the words of its tokens in the body or in `tokens`, under each live epoch |
| a network of addresses | the words of the networks in it, in `tokens` |
| a text that a field has as a whole | the same text with tokens, under each live epoch |
| words | alone as a class; in a phrase the phrase with tokens |
| a pattern, an order, a name that holds a value | refused |

Where the policy may keep a class in plain, too, the term as it was typed is asked for beside the tokens; a class that is never tokenised is
left alone. Of a value that was erased only the records are asked for that came in after that, and none if it was blocked; what stands
in plain, and what is asked for by a token, is found as before. Knows the tree and its fields; what a personal value looks like, and what the policy does with it, it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.domain.expression.tree import Query
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.planner.personal_knowledge import ClassOfField, FindPersonal, Knowledge, PersonalPolicy, Span, Told
from heimdall_server.planner.personal_pass import Matched, TermPass
from heimdall_server.planner.personal_values import DigestNames, PersonalForm, TokenNames
from heimdall_server.ports.keys import Tokeniser

__all__ = ["ClassOfField", "FindPersonal", "Matched", "PersonalForm", "PersonalPolicy", "PersonalTerms", "Rewritten"]

_ANY: Final = "*?"
DEFAULT_PREFIXES: Final = (24, 48)
"""Bits of the networks by which tokenised addresses are found: IPv4, IPv6."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A query without personal values of the classes that are tokenised."""

    query: Query = field(repr=False)
    """What alone may be logged, stored, cached or echoed. The query itself if nothing was to be done."""
    matched: tuple[Matched, ...]
    """Empty: nothing personal was asked, no permission is needed."""
    binding: Query = field(repr=False)
    """The same with keyed digests under the identity key instead of tokens, and nothing in plain: what resume tokens are bound to. Neither
    a new epoch nor an erasure changes it."""


class PersonalTerms:
    """Rewrites queries. Thread-safe."""

    def __init__(
        self,
        *,
        classes: frozenset[str],
        tokeniser: Tokeniser,
        policy: PersonalPolicy,
        find_personal: FindPersonal,
        class_of_field: ClassOfField,
        personal_form: PersonalForm,
        prefixes: tuple[int, int] = DEFAULT_PREFIXES,
        find_in_name: FindPersonal | None = None,
        erased: ErasedValues | None = None,
    ) -> None:
        """Take what it is told by.

        Args:
            classes: Classes that a policy may name.
            tokeniser: Makes the words of tokens.
            policy: What may become of a class, by every policy under which stored records may have been protected.
            find_personal: Finds values in texts.
            class_of_field: Reads names of attributes.
            personal_form: Brings values to the form that tokens are made of.
            prefixes: Bits of the networks by which tokenised addresses are found, IPv4 and IPv6; 0: by none.
            find_in_name: Finds values in names of fields; None: as in texts.
            erased: What was erased; None: nothing.
        """
        self._tokeniser = tokeniser
        self._erased = ErasedValues() if erased is None else erased
        self._told = Told(
            classes, policy, find_personal, find_in_name or find_personal, class_of_field, personal_form, prefixes
        )

    @property
    def epochs(self) -> tuple[int | str, ...]:
        """The live epochs: a query that runs on must be rewritten again when they change."""
        return tuple(self._tokeniser.live_epochs)

    @property
    def erasures(self) -> int:
        """Counts erasures: as for `epochs`, but what was rewritten before finds more than it should, and nothing less."""
        return self._erased.version

    def rewrite(self, query: Query) -> Rewritten:
        """Rewrite a query that `check_query` accepts. What comes out may have more terms than that accepts.

        Raises:
            QuerySyntaxError: It asks of tokenised values what tokens can't tell (an order, a part, a network too narrow or too wide), or
                names a field by a personal value. It names the field, never the value.

        Cost: a gate of all rules for each text and each name of a field in the query, rules only where it is passed.
        """
        known = Knowledge(self._told)
        asked = TermPass(known, TokenNames(self._tokeniser, self._erased), keep=True)
        rewritten = asked.query(query)
        if rewritten is query:
            return Rewritten(query, (), query)
        binding = TermPass(known, DigestNames(self._tokeniser), keep=False).query(query)
        return Rewritten(rewritten, asked.matched, binding)

    def never_stored(self, text: str) -> Sequence[Span]:
        """Values in a text that no record holds in any form: by every policy that counts, their classes are neither kept nor tokenised.

        Cost: as `rewrite`, for the one text.
        """
        policy, found = self._told.policy, (Span(*one) for one in self._told.find_personal(text))
        return [
            one
            for one in found
            # `password:*` asks for any value, and a mask is one.
            if text[one.start : one.end].strip(_ANY)
            and not (policy.may_keep(one.data_class) or policy.may_tokenise(one.data_class))
        ]
