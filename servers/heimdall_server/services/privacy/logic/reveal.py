"""Values behind tokens and ciphertexts, for those who may see them: counted, reasoned, written down before a value leaves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

from heimdall_server.domain.errors import (
    HeimdallError,
    InvalidArgumentError,
    KeyDestroyedError,
    NotFoundError,
    StoreError,
)
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.ports.keys import Sealer
from heimdall_server.ports.vault import Vault
from heimdall_server.services.privacy.logic import metrics
from heimdall_server.services.privacy.logic.limits import REVEAL_COUNT_MAX, CallerRates
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.logic.written import WrittenValues
from heimdall_server.services.privacy.model import Caller, RevealAnswer, Revealed, WrittenText

ACTION: Final = "privacy.reveal"

_Answer: TypeAlias = tuple[str | None, HeimdallError | None]


class RevealUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        vault: Vault,
        sealer: Sealer,
        trail: AuditTrail,
        rates: CallerRates,
        vault_caught_up: Callable[[], Awaitable[bool]],
        written: WrittenValues,
    ) -> None:
        """Make one.

        Args:
            vault: Where sealed values are.
            sealer: Opens them.
            trail: Where it is written down.
            rates: How much a caller may see.
            vault_caught_up: Waits for a short time until the vault holds what is acknowledged now; False: it doesn't yet.
            written: Opens what the vault doesn't hold: values that were encrypted where they stand.
        """
        self._vault = vault
        self._sealer = sealer
        self._trail = trail
        self._rates = rates
        self._vault_caught_up = vault_caught_up
        self._written = written

    async def reveal(
        self, caller: Caller, tokens: Sequence[str], reason: str, written: Sequence[WrittenText] = ()
    ) -> RevealAnswer:
        """The values of tokens and of written texts, each answered by itself.

        Args:
            caller: Who asks.
            tokens: With or without brackets.
            reason: Why.
            written: What was written in place of values that aren't in the vault; answered behind the tokens.

        Raises:
            InvalidArgumentError: Nothing was asked for, or too much.
            BudgetExceededError: The caller's rate is used up; nothing was revealed.
            StoreError: The vault or the audit log can't be reached; nothing was revealed.
        """
        asked_count = len(tokens) + len(written)
        if not 0 < asked_count <= REVEAL_COUNT_MAX:
            raise InvalidArgumentError("tokens", f"1 to {REVEAL_COUNT_MAX} together with written, not {asked_count}")
        self._rates.take(caller.actor, asked_count)
        names = [TokenName.parse(text) for text in tokens]
        distinct = list(dict.fromkeys(name for name in names if name is not None))
        sealed, absent = await self._look_up(distinct)
        answers = {**absent, **await asyncio.to_thread(self._open, sealed)}
        revealed = [
            _not_a_token(index, text) if name is None else Revealed(text, *answers[name])
            for index, (text, name) in enumerate(zip(tokens, names, strict=True))
        ]
        opened = await asyncio.to_thread(self._written.open, written)
        revealed += opened
        outcomes = Counter("revealed" if one.error is None else type(one.error).__name__ for one in revealed)
        metrics.count_revealed(outcomes)
        classes = {name.data_class for name in distinct}
        # What a caller calls a class may be anything: it is one where a value came of it.
        classes |= {text.named_class for text, one in zip(written, opened, strict=True) if one.error is None}
        entry = await self._trail.allowed(
            caller,
            ACTION,
            reason=reason,
            subject=str(distinct[0]) if len(distinct) == 1 else "",
            details={
                "asked_count": asked_count,
                "written_count": len(written),
                "revealed_count": outcomes["revealed"],
                "classes": " ".join(sorted(classes)),
                "tokens": " ".join(map(str, distinct)),
            },
        )
        return RevealAnswer(revealed, entry.sequence)

    async def _look_up(
        self, names: Sequence[TokenName]
    ) -> tuple[Mapping[TokenName, SealedValue], dict[TokenName, _Answer]]:
        """What the vault has, and why it lacks the others: what isn't erased may still be on its way from the journal."""
        found = dict(await self._vault.get(names)) if names else {}
        missing = [name for name in names if name not in found]
        tombstones = await self._vault.tombstones(missing) if missing else {}
        unknown = [name for name in missing if name not in tombstones]
        caught_up = await self._vault_caught_up() if unknown else True
        if unknown:
            found |= await self._vault.get(unknown)
        absent: dict[TokenName, _Answer] = {}
        for name in missing:
            if name in tombstones:
                absent[name] = (None, KeyDestroyedError(name.data_class, 0))
            elif name not in found:
                behind = StoreError("vault", "it is behind the journal")
                absent[name] = (None, NotFoundError("token", str(name)) if caught_up else behind)
        return found, absent

    def _open(self, sealed: Mapping[TokenName, SealedValue]) -> dict[TokenName, _Answer]:
        answers: dict[TokenName, _Answer] = {}
        for name, value in sealed.items():
            try:
                answers[name] = (self._sealer.open(value), None)
            except HeimdallError as error:
                answers[name] = (None, error)
        return answers


def _not_a_token(index: int, text: str) -> Revealed:
    # The text isn't echoed in the error: it may be a value that somebody took for a token.
    return Revealed(text, None, InvalidArgumentError(f"tokens[{index}]", "isn't a token; they look like [class:word]"))
