"""Personal values as they are searched: real keys, the real protector, and the pass that rewrites queries, all of one policy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.expression.check import check_query
from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import Or, Query, Words
from heimdall_server.domain.personal import token
from heimdall_server.language.parser import parse
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.planner.personal_terms import PersonalTerms, Rewritten
from heimdall_server.protect.blocklist import Blocklist
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.value_terms import ValueTerms

EVERYTHING = PrivacyPolicy(rules=(PrivacyRule("tokenise"),))
"""Every class becomes tokens, everywhere."""


def keyring(folder: Path) -> Keyring:
    """A new ring."""
    return asyncio.run(Keyring.load(folder / "keyring", LocalKeyEncryption(RootKey(bytes(range(32)))), classes=CLASSES))


@dataclass(eq=False)
class Search:
    """A policy in force: what protects records, and what rewrites queries."""

    ring: Keyring
    protector: PolicyProtector
    values: ValueTerms
    terms: PersonalTerms
    blocklist: Blocklist
    erased: ErasedValues

    @classmethod
    def of(cls, ring: Keyring, policy: PrivacyPolicy = EVERYTHING, *, prefixes: tuple[int, int] = (24, 48)) -> Search:
        """Put a policy in force."""
        protector = PolicyProtector(policy, keyed_actions(ring, ring, ip_prefixes=prefixes))
        values = ValueTerms(lambda: protector.policy)
        blocklist = Blocklist()
        erased = ErasedValues(blocklist.of)
        terms = PersonalTerms(
            classes=values.classes,
            tokeniser=ring,
            policy=values,
            find_personal=values.find_personal,
            find_in_name=values.find_in_name,
            class_of_field=values.class_of_field,
            personal_form=personal_form,
            prefixes=prefixes,
            erased=erased,
        )
        return cls(ring, protector, values, terms, blocklist, erased)

    def asked(self, text: str, **options: Any) -> Rewritten:
        """A query as somebody typed it, rewritten."""
        query = parse(text, now_ns=0, **options)
        check_query(query)
        return self.terms.rewrite(query)

    def rewritten(self, text: str) -> Query:
        """The same, the query alone."""
        return self.asked(text).query

    def word(self, data_class: str, form: str) -> str:
        """The newest word of a canonical value."""
        return self.ring.words(data_class, [form])[0]

    def token(self, data_class: str, form: str) -> str:
        """Its token."""
        return token(data_class, self.word(data_class, form))

    def anywhere(self, *forms: tuple[str, str]) -> Or:
        """What is asked for a value with these classes and forms."""
        words = [self.word(*each) for each in forms]
        return Or(tuple(Words(resolve(name), (word,)) for name in ("body", "tokens") for word in words))

    def protected(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Records as they are stored."""
        return self.protector.protect(batch).batch
