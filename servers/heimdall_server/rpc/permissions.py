"""Who may do what: the operator's table of identities, roles and permissions, and what the contract asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Self

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from heimdall.types.v1 import method_policy_pb2
from heimdall.types.v1.method_policy_pb2 import MethodPolicy
from heimdall_server.domain.errors import ConfigurationError, PermissionDeniedError
from heimdall_server.domain.identity import Principal
from heimdall_server.rpc.foreign import ANY_AUTHENTICATED, FOREIGN_POLICIES

DEFAULT_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "admin": ("*",),
    "writer": ("ingest.append",),
    "reader": ("query.*", "graph.read"),
    "analyst": ("query.*", "graph.read", "privacy.match"),
    "graph_curator": ("graph.*",),
    "operator": ("admin.*", "ingest.dead_letters.*", "query.*"),
    "privacy_officer": ("privacy.*", "audit.read", "query.*", "ingest.dead_letters.read", "ingest.dead_letters.delete"),
}
"""Roles that are always there; a configured role of the same name replaces one."""

_PERMISSION: Final = re.compile(r"\*|[a-z_]+(\.[a-z_]+)*(\.\*)?")
_URI_GLOB: Final = re.compile(r"spiffe://[a-z0-9._-]+/[A-Za-z0-9._/*-]+")
_WILDCARDS: Final = re.compile(r"\*\*|\*")
_CACHE_SIZE: Final = 4096


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The table of the configuration."""

    grants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """URI with wildcards → roles. `*` stands for anything within a segment, `**` for anything; none in the trust
    domain. All entries that match count."""
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Role → permissions: `query.search`, `query.*`, `*`. They come on top of `DEFAULT_ROLES`."""

    def __post_init__(self) -> None:
        """Check the table.

        Raises:
            ConfigurationError: With all problems.
        """
        problems: list[str] = []
        for role, permissions in self.roles.items():
            problems.extend(
                f"access.roles.{role}: {permission!r} isn't a permission (query.search, query.*, *)"
                for permission in permissions
                if not _PERMISSION.fullmatch(permission)
            )
        known = self.all_roles()
        for glob, roles in self.grants.items():
            if not _URI_GLOB.fullmatch(glob):
                problems.append(
                    f"access.grants: {glob!r} isn't a URI spiffe://<trust domain>/<kind>/<name>; "
                    "wildcards may stand behind the trust domain only"
                )
            problems.extend(
                f"access.grants: {glob!r} names the role {role!r}, which isn't one of {', '.join(sorted(known))}"
                for role in roles
                if role not in known
            )
        if problems:
            raise ConfigurationError(tuple(problems))

    @classmethod
    def default(cls, trust_domain: str) -> Self:
        """The table of an instance that has none configured.

        Whoever holds the authority's key decides who gets a certificate of kind `client`, so each of them may write
        and read; the one named `admin` may everything. Who holds a token may write.
        """
        return cls(
            {
                f"spiffe://{trust_domain}/client/admin": ("admin",),
                f"spiffe://{trust_domain}/client/*": ("writer", "reader"),
                f"spiffe://{trust_domain}/token/*": ("writer",),
            }
        )

    def all_roles(self) -> Mapping[str, tuple[str, ...]]:
        """Roles with their permissions, the default ones among them."""
        return {**DEFAULT_ROLES, **self.roles}

    def roles_of(self, uri: str) -> frozenset[str]:
        """Roles of an identity."""
        return frozenset(role for glob, roles in self.grants.items() if _matches(glob, uri) for role in roles)


class Authorizer:
    """Applies an access policy to principals. Immutable but for a bounded cache; a reload makes a new one."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._policy = policy
        self._granted = lru_cache(maxsize=_CACHE_SIZE)(self._look_up)

    def with_roles(self, principal: Principal) -> Principal:
        """The principal with the roles and permissions that the table grants."""
        return self._granted(principal)

    @staticmethod
    def check(principal: Principal, policy: MethodPolicy) -> None:
        """Let a call pass.

        Raises:
            PermissionDeniedError: No role of the principal grants what the method needs.
        """
        permission = policy.permission
        if permission != ANY_AUTHENTICATED and not principal.may(permission):
            raise PermissionDeniedError(principal.uri, permission)

    def _look_up(self, principal: Principal) -> Principal:
        roles = self._policy.roles_of(principal.uri)
        known = self._policy.all_roles()
        permissions = frozenset(permission for role in roles for permission in known[role])
        return replace(principal, roles=roles, permissions=permissions)


def method_policies(services: Iterable[str]) -> Mapping[str, MethodPolicy]:
    """The policy of each method of the services, from their contracts (or `foreign`).

    Args:
        services: Full names.

    Returns:
        Full method name, `heimdall.query.v1.QueryService/Search`, → policy.

    Raises:
        ConfigurationError: A method has none, or a service isn't linked in; all are named.
    """
    policies: dict[str, MethodPolicy] = {}
    problems: list[str] = []
    for service in services:
        descriptor = _find_service(service)
        if descriptor is None:
            problems.append(f"{service}: no such service in this program")
            continue
        for method in descriptor.methods:
            name = f"{service}/{method.name}"
            policy = FOREIGN_POLICIES.get(name)
            if policy is None:
                policy = method.GetOptions().Extensions[method_policy_pb2.policy]
            if policy.permission:
                policies[name] = policy
            else:
                problems.append(f"{name}: its contract names no permission (option heimdall.types.v1.policy)")
    if problems:
        raise ConfigurationError(tuple(problems))
    return policies


def assert_all_methods_have_policy(services: Iterable[str]) -> None:
    """Refuse services with a method that anyone could call.

    Raises:
        ConfigurationError: A method has no policy, or a service isn't linked in; all are named.
    """
    method_policies(services)


def _find_service(name: str) -> ServiceDescriptor | None:
    try:
        return descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        return None


@lru_cache(maxsize=1024)
def _compiled(glob: str) -> re.Pattern[str]:
    pieces = []
    position = 0
    for wildcard in _WILDCARDS.finditer(glob):
        pieces.append(re.escape(glob[position : wildcard.start()]))
        pieces.append(".*" if wildcard.group() == "**" else "[^/]*")
        position = wildcard.end()
    pieces.append(re.escape(glob[position:]))
    return re.compile("".join(pieces))


def _matches(glob: str, uri: str) -> bool:
    return _compiled(glob).fullmatch(uri) is not None
