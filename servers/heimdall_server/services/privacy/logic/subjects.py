"""Who a subject is: the tokens under which the stores know what a caller named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError, KeyDestroyedError
from heimdall_server.domain.personal import PersonalValue, TokenName
from heimdall_server.planner.personal_values import ADDRESS_CLASSES, address_readings
from heimdall_server.ports.keys import Sealer, Tokeniser
from heimdall_server.ports.vault import Vault

_ADDRESS: Final = "ip"
"""Stands for the classes of both versions, as in a query."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject, without its values."""

    names: Sequence[TokenName]
    """Its tokens under all live epochs, distinct, in the order of what was named."""
    digests: Sequence[str]
    """Keyed digests of the values, the same in each epoch: what a repeat of a request is known by."""
    epochs: Sequence[int]
    """That the tokens are of."""

    @property
    def classes(self) -> list[str]:
        """The classes of its values, sorted."""
        return sorted({name.data_class for name in self.names})


class SubjectNames:
    """Turns values into tokens. What is named by a token alone is looked up in the vault, so that its other epochs are found, too."""

    def __init__(
        self,
        *,
        tokeniser: Tokeniser,
        sealer: Sealer,
        vault: Vault,
        classes: Collection[str],
        personal_form: Callable[[str, str], str],
        why_impossible: Callable[[str, str], str],
    ) -> None:
        """Make one.

        Args:
            tokeniser: Names values.
            sealer: Opens what only a token names.
            vault: Where that is.
            classes: Classes of personal data that there are.
            personal_form: What a value of a class is tokenised under: (class, value) → form.
            why_impossible: Why a text can't be a value of a class, without naming it: (class, value) → reason; empty: it may be one.
        """
        self._tokeniser = tokeniser
        self._sealer = sealer
        self._vault = vault
        self._classes = classes
        self._personal_form = personal_form
        self._why_impossible = why_impossible

    async def resolve(self, values: Sequence[PersonalValue]) -> Subject:
        """The tokens of what was named.

        Raises:
            InvalidArgumentError: No such class, nothing named, no address where `ip` is said, a token of another class, or what no value of
                its class can be and the vault doesn't hold all the same (as a field's name may have said); all problems at once.
            StoreError: The vault can't be reached, where a token was named, or an odd value.
            IntegrityError: What a named token stands for was changed.
        """
        await self._check(values, [TokenName.parse(one.value) for one in values])
        values = [each for one in values for each in _of_classes(one)]
        tokens = [TokenName.parse(one.value) for one in values]
        opened = await self._opened([name for name in tokens if name is not None])
        return await asyncio.to_thread(self._named, values, tokens, opened)

    async def _check(self, values: Sequence[PersonalValue], tokens: Sequence[TokenName | None]) -> None:
        problems: list[tuple[str, str]] = []
        for index, (one, name) in enumerate(zip(values, tokens, strict=True)):
            if one.data_class == _ADDRESS:
                if not _of_classes(one):
                    problems.append((f"subject[{index}].value", "is neither an IP address nor the token of one"))
            elif one.data_class not in self._classes:
                problems.append(
                    (f"subject[{index}].data_class", f"no such class; there are {', '.join(self._classes)}")
                )
            elif name is not None and name.data_class != one.data_class:
                problems.append((f"subject[{index}].value", "is a token of another class"))
            elif not one.value.strip():
                problems.append((f"subject[{index}].value", "is blank"))
            elif name is None and (reason := await self._why_refused(one)):
                problems.append((f"subject[{index}].value", reason))
        if problems:
            raise InvalidArgumentError(*problems[0], tuple(problems[1:]))

    async def _why_refused(self, one: PersonalValue) -> str:
        """Of what no value can be, and wasn't taken for one all the same: a certificate for it would certify nothing. Empty: it may be one."""
        reason = self._why_impossible(one.data_class, one.value)
        if not reason:
            return ""
        form = self._personal_form(one.data_class, one.value)
        words = self._tokeniser.words_of_all_epochs(one.data_class, form)
        held = await self._vault.get([TokenName(one.data_class, word) for word in words])
        return "" if held else f"{reason}; and the vault holds no such value"

    async def _opened(self, names: Sequence[TokenName]) -> dict[TokenName, str]:
        if not names:
            return {}
        found = await self._vault.get(names)
        opened: dict[TokenName, str] = {}
        for name, sealed in found.items():
            try:
                opened[name] = await asyncio.to_thread(self._sealer.open, sealed)
            except KeyDestroyedError:
                # Nobody can read it any more: the token itself is all there is.
                continue
        return opened

    def _named(
        self, values: Sequence[PersonalValue], tokens: Sequence[TokenName | None], opened: dict[TokenName, str]
    ) -> Subject:
        names: dict[TokenName, None] = {}
        digests: dict[str, None] = {}
        epochs = tuple(self._tokeniser.live_epochs)  # before: one that begins meanwhile may be among none of the tokens
        for one, name in zip(values, tokens, strict=True):
            if name is not None:
                names[name] = None
                if name not in opened:
                    digests[str(name)] = None
                    continue
                form = opened[name]
            else:
                form = self._personal_form(one.data_class, one.value)
            digests[self._tokeniser.digests(one.data_class, [form])[0]] = None
            for word in self._tokeniser.words_of_all_epochs(one.data_class, form):
                names[TokenName(one.data_class, word)] = None
        return Subject(tuple(names), tuple(digests), epochs)


def _of_classes(one: PersonalValue) -> list[PersonalValue]:
    """An IP address in each form that records may have of it, by its version; what has a class is itself. Empty: it is no address."""
    if one.data_class != _ADDRESS:
        return [one]
    name = TokenName.parse(one.value)
    if name is not None:
        return [PersonalValue(name.data_class, one.value)] if name.data_class in ADDRESS_CLASSES else []
    return [PersonalValue(each.data_class, each.form) for each in address_readings(one.value.strip())]
