"""Keys, without anything secret: what there are, how much each seals, and rotations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError, StoreError
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.ports.keys import KeyAdministration, KeyFacts, Signer
from heimdall_server.ports.vault import Vault
from heimdall_server.services.privacy.logic.operations import OperationRunner, identity_of
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller, KeyState

ACTION: Final = "privacy.keys.rotate"
_ORDER: Final = ("kek", "journal", "data", "index", "identity", "signing")


class KeysUseCase:
    """See the module. The parameters of a rotation are `classes`."""

    def __init__(
        self,
        *,
        keys: KeyAdministration,
        signer: Signer,
        vault: Vault,
        classes: Collection[str],
        runner: OperationRunner,
        trail: AuditTrail,
        check_next_kek: Callable[[], None],
    ) -> None:
        """Make one.

        Args:
            keys: The keyring.
            signer: Of certificates.
            vault: Where values are counted.
            classes: Classes of personal data that there are.
            runner: Does rotations.
            trail: Where they are written down.
            check_next_kek: Raises ConfigurationError where the key-encryption key can't be rotated from here.
        """
        self._keys = keys
        self._signer = signer
        self._vault = vault
        self._classes = classes
        self._runner = runner
        self._trail = trail
        self._check_next_kek = check_next_kek

    @property
    def signing_public_key(self) -> bytes:
        """32 bytes (Ed25519)."""
        return self._signer.public_key

    async def list(self) -> Sequence[KeyState]:
        """The keys by kind, class and number; without counts where the vault can't be reached."""
        facts = sorted(self._keys.list(), key=_place)
        return [KeyState(one, await self._value_count(one)) for one in facts]

    async def rotate(
        self, caller: Caller, kind: OperationKind, classes: Sequence[str], *, reason: str, request_id: str
    ) -> Operation:
        """Begin a rotation.

        Args:
            caller: Who.
            kind: Which keys.
            classes: Of data keys; empty: all.
            reason: Why.
            request_id: A repeat gives the first operation; empty: none.

        Raises:
            InvalidArgumentError: No such class, or classes of keys that have none.
            ConfigurationError: The key-encryption key can't be rotated from here.
            StoreError: The ledger or the audit log can't be written; nothing was begun.
        """
        self._check(kind, classes)
        if kind is OperationKind.ROTATE_KEK:
            self._check_next_kek()
        chosen = sorted(set(classes))
        await self._trail.allowed(
            caller, ACTION, reason=reason, subject=kind.value, details={"classes": " ".join(chosen)}
        )
        return await self._runner.create(
            kind,
            actor=caller.actor,
            reason=reason,
            request_id=request_id,
            identity=identity_of({"classes": chosen}),
            parameters={"classes": chosen},
        )

    def _check(self, kind: OperationKind, classes: Sequence[str]) -> None:
        if classes and kind is not OperationKind.ROTATE_DEK:
            raise InvalidArgumentError("data_classes", "belong to data keys only; leave them out")
        known = {*self._classes, *(key.data_class for key in self._keys.list() if key.kind == "data")}
        problems = [
            (f"data_classes[{index}]", f"no such class; there are {', '.join(sorted(known))}")
            for index, name in enumerate(classes)
            if name not in known
        ]
        if problems:
            raise InvalidArgumentError(*problems[0], tuple(problems[1:]))

    async def _value_count(self, key: KeyFacts) -> int:
        if key.kind != "data" or key.state == "destroyed":
            return 0
        try:
            older = await self._vault.count_older_than(key.data_class, key.number)
            return max(0, await self._vault.count_older_than(key.data_class, key.number + 1) - older)
        except StoreError:
            return 0


def _place(key: KeyFacts) -> tuple[int, str, int]:
    return _ORDER.index(key.kind) if key.kind in _ORDER else len(_ORDER), key.data_class, key.number
