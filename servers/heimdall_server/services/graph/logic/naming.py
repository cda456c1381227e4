"""From what somebody calls a thing to the id of its vertex.

A value of a class that may be tokenised names an entity that only the identity key can find. Who asks so can guess, so it needs
`privacy.match` and leaves an entry in the audit log, as in a query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

import pyarrow as pa

from heimdall_server.canonical.catalogue import TYPES, personal_form
from heimdall_server.canonical.column import Refused
from heimdall_server.canonical.identity import PERSONAL_TYPES, entity_ids, personal_entity_ids
from heimdall_server.canonical.named_things import is_named_type, read_name
from heimdall_server.domain import graph_ids
from heimdall_server.domain.errors import InvalidArgumentError, NotFoundError
from heimdall_server.domain.personal import TokenName
from heimdall_server.services.graph.model import DUMP_TYPE, Named

_ADDRESS: Final = "ip"


class TokenOwners(Protocol):
    """Says whose a token is."""

    async def learn(self, tokens: Iterable[str], *, through: int) -> Mapping[str, str]:
        """Canonical ids of entities by token (`class:word`); none for one that can't be told."""
        ...


Match = Callable[[str, str], Awaitable[None]]
"""Class and personal form of a value: lets the caller ask for it, or raises."""


class VertexNames:
    """See the module."""

    def __init__(
        self,
        *,
        classes: frozenset[str],
        may_tokenise: Callable[[str], bool],
        mac: Callable[[bytes], bytes],
        owners: TokenOwners,
        match: Match,
    ) -> None:
        """Take what it is told by.

        Args:
            classes: Of personal data.
            may_tokenise: Whether values of a class may stand in records as tokens.
            mac: Under the identity key.
            owners: Says whose a token is.
            match: Lets a caller ask for a personal value.
        """
        self._classes = classes
        self._may_tokenise = may_tokenise
        self._mac = mac
        self._owners = owners
        self._match = match

    async def ids(self, named: Named) -> tuple[bytes, ...]:
        """The ids that a name may mean, the likeliest first.

        Raises:
            InvalidArgumentError: There is no such type, or it isn't a value of it. The value isn't repeated.
            NotFoundError: A token of a value that was erased or that nobody knows.
            PermissionDeniedError, BudgetExceededError, StoreError: As `Match`.
        """
        if named.id:
            return (named.id,)
        if named.type == DUMP_TYPE:
            return (graph_ids.dump_id(named.value),)
        name = TokenName.parse(named.value)
        if name is not None:
            return await self._of_token(name)
        if is_named_type(named.type):
            return _packed(entity_ids(named.type, pa.array([_name(named)])))
        if named.type not in TYPES and named.type not in self._classes:
            raise InvalidArgumentError("vertex.typed.type", f"there is no type {named.type!r} of entities")
        ids: tuple[bytes, ...] = ()
        for type_name, value in self._canonical(named):
            if type_name not in PERSONAL_TYPES and type_name in TYPES:
                ids += _packed(entity_ids(type_name, pa.array([value])))
            if type_name in PERSONAL_TYPES or (type_name in self._classes and self._may_tokenise(type_name)):
                form = personal_form(type_name, pa.array([value]))
                await self._match(type_name, form[0].as_py())
                ids += _packed(personal_entity_ids(type_name, form, self._mac))
        return ids

    async def _of_token(self, name: TokenName) -> tuple[bytes, ...]:
        token = str(name)[1:-1]
        found = await self._owners.learn((token,), through=0)
        if token not in found:
            raise NotFoundError("token", str(name))
        return _packed(pa.array([found[token]]))

    def _canonical(self, named: Named) -> list[tuple[str, str]]:
        """Type and canonical value; an address says its version itself."""
        known = TYPES.get(named.type)
        if known is None:
            return [(named.type, named.value)]
        read = known.read(named.value)
        if isinstance(read, Refused):
            raise InvalidArgumentError("vertex.typed.value", f"not a value of type {named.type}: {read.reason}")
        value = read.value
        type_name = named.type if named.type != _ADDRESS else "ipv6" if ":" in value else "ipv4"
        return [(type_name, value)]


def _name(named: Named) -> str:
    read = read_name(named.value)
    if isinstance(read, Refused):
        raise InvalidArgumentError("vertex.typed.value", f"not a name of a {named.type}: {read.reason}")
    return read.value


def _packed(identities: pa.StringArray) -> tuple[bytes, ...]:
    return tuple(graph_ids.entity_ids(identities).to_pylist())
